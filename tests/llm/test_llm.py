"""The client: replay, live over real HTTP, the store, and what never leaks."""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from nbutils.core.errors import LabError
from nbutils.core.settings import resolve
from nbutils.llm.client import Answer, ChatRequest, Client, Store, chat_request
from nbutils.llm.sdk import open_sdk
from nbutils.synthesis import asking, generate, plan, recordings

KEY = "sk-planted-0123456789abcdef"


class Server(ThreadingHTTPServer):
    """An OpenAI-compatible server on loopback that answers from the recordings."""

    daemon_threads = True
    request_queue_size = 256  # many clients come at once

    def __init__(self):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.seen: list[dict] = []
        self.status = 200
        self.cut = {}  # finish reason and text to send instead
        responses = recordings.recorded_responses("health")
        self.answers = {
            request.prompt: json.dumps(responses[request.id])
            for request in recordings.recorded_requests("health", responses)
        }


class _Handler(BaseHTTPRequestHandler):
    def do_POST(self):
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.seen.append({"path": self.path, "body": body})
        if self.server.status != 200:
            secret = self.headers["Authorization"]
            value = {"error": {"message": f"Incorrect API key: {secret}"}}
        else:
            text = self.server.answers[body["messages"][0]["content"]]
            reason, text = self.server.cut.get("now", ("stop", text))
            message = {"role": "assistant", "content": text}
            value = {
                "id": "x", "object": "chat.completion", "created": 0,
                "model": body["model"],
                "choices": [{"index": 0, "message": message, "finish_reason": reason}],
                "usage": {
                    "prompt_tokens": 7, "completion_tokens": 5, "total_tokens": 12
                },
            }  # fmt: skip
        payload = json.dumps(value).encode()
        self.send_response(self.server.status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(monkeypatch):
    server = Server()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    monkeypatch.setenv("OPENAI_BASE_URL", url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    yield server
    server.shutdown()
    server.server_close()


def live(tmp_path, **changes):
    return resolve(
        "workshop",
        {
            "families": ["health"], "llm_mode": "live", "llm_model": "other",
            "llm_store": str(tmp_path / "answers.sqlite"), "llm_retries": 0,
        } | changes,
    )  # fmt: skip


def first_requests(settings, count=3):
    return [r.chat(settings) for r in plan.brainstorm_requests("health")][:count]


# -- keys


def test_key_depends_on_everything_that_decides_an_answer():
    settings = resolve()
    base = chat_request("a/b", "hello", "mgh", settings)
    same = chat_request("another/id", "hello", "mgh", settings)
    changed = [
        chat_request("a/b", "hello.", "mgh", settings),
        chat_request("a/b", "hello", "seed", settings),
        chat_request("a/b", "hello", "mgh", settings, sample=1),
        *(
            chat_request("a/b", "hello", "mgh", settings.changed(**change))
            for change in (
                {"llm_model": "x"}, {"llm_temperature": 0.5},
                {"llm_top_p": 0.5}, {"llm_max_tokens": 5},
            )
        ),
    ]  # fmt: skip
    assert same.key == base.key
    assert len({request.key for request in [base, *changed]}) == len(changed) + 1


def test_whole_and_fractional_numbers_of_one_value_give_one_key():
    one = ChatRequest("a", ({"role": "user", "content": "x"},), "", "m", {"t": 1})
    same = ChatRequest("a", ({"role": "user", "content": "x"},), "", "m", {"t": 1.0})
    assert one.key == same.key


# -- replay


def test_replay_gives_the_recorded_text_for_every_planned_request():
    settings = resolve("workshop", {"families": ["money"]})
    client = generate.open_client(settings)
    responses = recordings.recorded_responses("money")
    planned = list(recordings.recorded_requests("money", responses))
    answers = client.complete_many([r.chat(settings) for r in planned])
    assert [json.loads(a.text) for a in answers] == [responses[r.id] for r in planned]
    assert len(planned) == len(responses) == 239


def test_missing_request_names_itself_and_the_way_out(tmp_path):
    settings = resolve("workshop", {"llm_store": str(tmp_path / "none.sqlite")})
    request = chat_request("home/mgh/sts/0/0", "never asked", "mgh", settings)
    with pytest.raises(LabError) as caught:
        Client(settings).complete(request)
    message = str(caught.value)
    for part in ("home/mgh/sts/0/0", "stage mgh", "family home", "OPENAI_BASE_URL",
                 "OPENAI_API_KEY", "llm_mode"):  # fmt: skip
        assert part in message
    assert "\n" not in message
    assert not (tmp_path / "none.sqlite").exists()


def test_other_decoding_settings_are_another_request():
    settings = resolve(
        "workshop",
        {"families": ["home"], "llm_temperature": 0.3, "llm_store": "runs/none"},
    )
    with pytest.raises(LabError, match=r"temperature 0\.3"):
        generate.brainstorm(settings, generate.open_client(settings))


# -- live


def test_live_answer_is_stored_and_not_requested_again(server, tmp_path):
    settings = live(tmp_path)
    client = generate.open_client(settings)
    tasks, rejections = generate.brainstorm(settings, client)
    assert (len(tasks), rejections) == (20, [])
    assert client.requested == len(server.seen) == 5
    assert server.seen[0]["body"]["model"] == "other"

    again = generate.open_client(settings)
    assert generate.brainstorm(settings, again)[0] == tasks
    replay = generate.open_client(live(tmp_path, llm_mode="replay"))
    assert generate.brainstorm(live(tmp_path, llm_mode="replay"), replay)[0] == tasks
    assert len(server.seen) == 5


def test_stored_answer_carries_usage_model_latency_and_time(server, tmp_path):
    settings = live(tmp_path)
    client = generate.open_client(settings)
    request = first_requests(settings, 1)[0]
    answer = client.complete(request)
    assert answer == client.store.get(request.key)
    assert answer.usage["completion_tokens"] == 5
    assert (answer.model, answer.finish) == ("other", "stop")
    assert answer.latency > 0 and answer.time.startswith("20")


@pytest.mark.parametrize(
    ("cut", "reason"),
    [
        (("length", '["Given a'), "cut_off"),
        (("content_filter", "I can"), "filtered"),
        (("stop", " \n"), "not_json"),
    ],
)
def test_a_refused_answer_stays_and_is_asked_again_with_its_fault(
    cut, reason, server, tmp_path
):
    settings = live(tmp_path, llm_reasks=1)
    planned = list(plan.brainstorm_requests("health"))[:1]
    server.cut["now"] = cut
    client = generate.open_client(settings)
    accepted, (rejection,) = asking.fulfil(planned, settings, client)
    assert (accepted, rejection.reason, len(server.seen)) == ([], reason, 2)
    again = server.seen[1]["body"]["messages"]
    assert "cannot be used" in again[-1]["content"]
    assert len(again) == (3 if cut[1].strip() else 2)
    stored = client.store.rejections()
    assert {row[2] for row in stored} == {reason} and len(stored) == 2
    asking.fulfil(planned, settings, client)
    assert len(server.seen) == 2  # paid for once
    server.cut.clear()
    more = live(tmp_path, llm_reasks=2)
    tasks, rejections = asking.fulfil(planned, more, generate.open_client(more))
    assert (len(tasks), rejections, len(server.seen)) == (1, [], 3)
    replay = live(tmp_path, llm_mode="replay", llm_reasks=2)
    assert asking.fulfil(planned, replay, generate.open_client(replay))[0] == tasks


def test_many_keep_their_order_and_a_repeat_is_asked_once(server, tmp_path):
    settings = live(tmp_path, llm_in_flight=4)
    client = generate.open_client(settings)
    requests = first_requests(settings)
    answers = client.complete_many([*requests, requests[0]])
    assert [a.key for a in answers] == [r.key for r in [*requests, requests[0]]]
    assert client.requested == len(client.store) == 3


def test_structured_output_is_sent_for_objects_only(server, tmp_path):
    settings = live(tmp_path)
    client = generate.open_client(settings)
    client.complete(next(iter(plan.seed_requests("health"))).chat(settings))
    client.complete(first_requests(settings, 1)[0])
    form = server.seen[0]["body"]["response_format"]
    assert form["json_schema"]["name"] == "seed"
    assert set(form["json_schema"]["schema"]["required"]) == {
        "query", "title", "positives"
    }  # fmt: skip
    assert "response_format" not in server.seen[1]["body"]


def test_a_refused_key_is_said_and_never_shown(server, tmp_path, caplog, capsys):
    server.status = 401
    settings = live(tmp_path)
    with caplog.at_level(logging.DEBUG), pytest.raises(LabError) as caught:
        generate.brainstorm(settings, generate.open_client(settings))
    assert "OPENAI_API_KEY" in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.__cause__ is None
    everything = f"{caught.value}{caplog.text}{capsys.readouterr()}"
    assert KEY not in everything and "planted" not in everything


def test_the_key_is_not_in_the_store(server, tmp_path):
    settings = live(tmp_path)
    client = generate.open_client(settings)
    generate.brainstorm(settings, client)
    client.close()
    for path in tmp_path.iterdir():
        assert b"planted" not in path.read_bytes(), path
    assert len(Store(tmp_path / "answers.sqlite")) == 5


def test_failure_keeps_what_had_arrived(server, tmp_path):
    settings = live(tmp_path, llm_in_flight=1)
    client = generate.open_client(settings)
    requests = first_requests(settings)
    client.complete(requests[0])
    server.status = 500
    with pytest.raises(LabError, match="is stored"):
        client.complete_many(requests)
    server.status = 200
    assert len(client.complete_many(requests)) == 3
    asked = [seen["body"]["messages"][0]["content"] for seen in server.seen]
    assert asked.count(requests[0].messages[0]["content"]) == 1


def test_unreachable_server_is_one_line_without_credentials(monkeypatch, tmp_path):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://user:planted@127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    settings = live(tmp_path, llm_timeout_s=2.0)
    with pytest.raises(LabError, match=r"127\.0\.0\.1 cannot be reached") as caught:
        Client(settings).complete(first_requests(settings, 1)[0])
    assert "planted" not in str(caught.value)


def test_live_without_key_or_model_says_what_is_missing(monkeypatch, tmp_path):
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(LabError, match="OPENAI_API_KEY"):
        open_sdk(live(tmp_path))
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    with pytest.raises(LabError, match="llm_model"):
        open_sdk(live(tmp_path, llm_model="recorded"))


# -- store


def test_first_answer_stays(tmp_path):
    store = Store(tmp_path / "s.sqlite")
    request = chat_request("a", "x", "", resolve())
    store.put(request, Answer(request.key, "first"))
    store.put(request, Answer(request.key, "second"))
    assert store.get(request.key).text == "first"
    mode = sqlite3.connect(tmp_path / "s.sqlite").execute("PRAGMA journal_mode")
    assert mode.fetchone() == ("wal",)


def test_a_file_that_is_no_store_is_a_lab_error(tmp_path):
    path = tmp_path / "s.sqlite"
    path.write_text("not a database, and long enough to be read as one" * 50)
    with pytest.raises(LabError, match="llm_store"):
        Store(path).get("key")
