"""Batch files through the SDK: written, fetched, merged, resumed."""

import json
import re

import faults
import pytest

from benchmarks.llm import HTTP
from nbutils.core.errors import LabError
from nbutils.core.settings import resolve
from nbutils.llm import batches
from nbutils.llm.client import Client
from nbutils.llm.store import chat_request


class Provider:
    """A provider's /files, /batches and chat, in place of the network.

    A batch is in progress at the first look, and completed at the second; every fifth
    of its lines fails.
    """

    def __init__(self):
        self.files, self.batches, self.chats, self.status = {}, {}, [], 200
        self.answers = {prompt: text for prompt, (_, text) in faults.planned().items()}

    def __call__(self, request):
        if self.status != 200:
            error = {"error": {"message": request.headers["Authorization"]}}
            return HTTP.Response(self.status, json=error)
        *_, kind, name = request.url.path.split("/")
        if name == "content":
            return HTTP.Response(200, text=self.files[kind])
        if name == "files":
            name, text = f"file-{len(self.files)}", request.read().decode()
            part = r'filename="requests.jsonl".*?\r\n\r\n(.*?)\r\n--'
            self.files[name] = re.search(part, text, re.S)[1]
            return HTTP.Response(200, json={"id": name})
        if request.method == "GET" and name == "batches":
            return HTTP.Response(
                200, json={"data": [*self.batches.values()], "has_more": False}
            )
        if request.method == "GET":
            return HTTP.Response(200, json=self.look(self.batches[name]))
        body = json.loads(request.content)
        if name == "batches":
            name = f"batch-{len(self.batches)}"
            self.batches[name] = {"id": name, "status": "validating", **body}
            return HTTP.Response(200, json=self.batches[name])
        self.chats.append(request.headers["Idempotency-Key"])
        return HTTP.Response(200, json=self.completion(body))

    def completion(self, body):
        text = self.answers[body["messages"][0]["content"]]
        return faults.completion(body, "stop", text)

    def look(self, batch):
        if batch["status"] == "in_progress":
            batch["status"] = "completed"
            self.work(batch)
        elif batch["status"] == "validating":
            batch["status"] = "in_progress"
        return batch

    def work(self, batch):
        """Answer the lines of a batch's file into an output and an error file."""
        lines = {"output": [], "error": []}
        for number, row in enumerate(self.files[batch["input_file_id"]].splitlines()):
            row, good = json.loads(row), number % 5 != 4
            body = self.completion(row["body"]) if good else {"error": "busy"}
            response = {"status_code": 200 if good else 500, "body": body}
            line = {"custom_id": row["custom_id"], "response": response, "error": None}
            lines["output" if good else "error"].append(json.dumps(line))
        for name, rows in lines.items():
            self.files[f"{name}-{batch['id']}"] = "\n".join(rows)
            batch[f"{name}_file_id"] = f"{name}-{batch['id']}"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://provider/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "sk-planted-0123456789")
    return Provider()


@pytest.fixture
def opened(server, tmp_path):
    """Opens a client with its batches: (client, batches, what was said, requests)."""

    def client_of(live=True):
        settings = faults.settings_for(tmp_path / "s.sqlite", llm_retries=0)
        transport = HTTP.MockTransport(server)
        client, said = Client(settings, transport=transport), []
        made = batches.Batches(client, said.append, live, poll_s=0)
        client.prefetch = made.run
        return client, made, said, faults.requests_of(40, settings)

    return client_of


def test_a_part_failed_batch_is_finished_live(server, opened):
    client, made, said, requests = opened()
    answers = client.complete_many(requests)
    assert [a.key for a in answers] == [r.key for r in requests]
    assert len(server.batches) == 1 and len(client.store) == 40
    failed = [r.key for n, r in enumerate(requests) if n % 5 == 4]
    assert sorted(server.chats) == sorted(failed)
    assert json.loads(made.notes.read_text()) == []
    assert any("32 answers, 8 without one; 8: busy" in line for line in said)
    wanted = server.answers[requests[0].messages[0]["content"]]
    assert (answers[0].text, answers[0].usage["completion_tokens"]) == (wanted, 200)
    client.complete_many(requests)
    assert len(server.batches) == 1 and len(server.chats) == 8


def test_what_a_batch_leaves_is_not_asked_live_unless_the_user_says_so(server, opened):
    client, *_, requests = opened(live=False)
    with pytest.raises(LabError, match=r"8 of 40 requests .*--live"):
        client.complete_many(requests)
    assert len(client.store) == 32 and not server.chats
    client, *_ = opened(live=False)
    with pytest.raises(LabError, match="1 of 8 "):  # in a batch again, however few
        client.complete_many([r for r in requests if not client.find(r)])
    assert len(server.batches) == 2 and not server.chats


def test_a_batch_that_failed_as_a_whole_is_named_and_nothing_is_asked_live(
    server, opened, monkeypatch
):
    def fail(self, batch):
        fault = {"code": "token_limit_exceeded", "message": "Enqueued limit: 90,000"}
        batch |= {"status": "failed", "errors": {"object": "list", "data": [fault]}}

    monkeypatch.setattr(Provider, "work", fail)
    client, _, said, requests = opened(live=False)
    with pytest.raises(LabError, match="40 of 40 requests"):
        client.complete_many(requests)
    assert said[-1].endswith(
        "failed: 0 answers, 40 without one; 40: token_limit_exceeded Enqueued limit: "
        "90,000"
    )
    assert not server.chats


def test_a_line_carries_the_request_as_it_would_be_asked_live(server, opened):
    client, _, _, requests = opened()
    client.server.without = {"top_p", "max_tokens"}
    client.complete_many(requests)
    rows = [json.loads(row) for row in server.files["file-0"].splitlines()]
    assert [row["custom_id"] for row in rows] == [r.key for r in requests]
    body, request = next(
        (row["body"], request)
        for row, request in zip(rows, requests, strict=True)
        if request.schema == "seed"
    )
    assert body["messages"] == list(request.messages)
    assert body["response_format"]["json_schema"]["name"] == "seed"
    assert body["max_completion_tokens"] == request.decoding["max_tokens"]
    assert "top_p" not in body and "max_tokens" not in body


def test_few_requests_are_asked_live(server, opened):
    client, _, _, requests = opened()
    client.complete_many(requests[: batches.FEWEST - 1])
    assert not server.batches and len(server.chats) == batches.FEWEST - 1


class Killed(BaseException):
    """A process that ends here."""


def die(*_):
    raise Killed


@pytest.mark.parametrize("where", ["before it was created", "while it was worked on"])
def test_a_broken_run_waits_for_its_batch_and_submits_it_once(
    where, server, opened, monkeypatch
):
    client, made, _, requests = opened()
    created = (batches.Batches, "_started"), (batches.time, "sleep")
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(*created["while" in where], die)
        client.complete_many(requests)
    assert made.notes.is_file()
    client, made, _, requests = opened()
    client.complete_many(requests)
    assert len(server.batches) == 1 and len(client.store) == 40
    assert len([name for name in server.files if name.startswith("file-")]) == 1
    assert json.loads(made.notes.read_text()) == []


def test_a_batch_of_other_requests_is_left_for_the_run_that_asked(
    server, opened, monkeypatch
):
    client, made, _, requests = opened()
    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(batches.time, "sleep", die)
        client.complete_many(requests[:20])
    client.complete_many(faults.requests_of(80, client.settings)[40:])
    assert len(server.batches) == 2
    assert json.loads(made.notes.read_text())[0]["batch"] == "batch-0"


def test_a_refusal_is_one_line_without_the_key(server, opened):
    client, _, _, requests = opened()
    server.status = 401
    with pytest.raises(LabError, match="could not be submitted") as caught:
        client.complete_many(requests)
    assert "planted" not in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("row", "reason"),
    [("", None), ("{", None), ("[]", None), ('{"custom_id": "other"}', None),
     ('{"custom_id": "k"}', "without a word"),
     ('{"custom_id": "k", "response": null, "error": {"code": "batch_expired"}}',
      "batch_expired"),
     ('{"custom_id": "k", "response": {"status_code": 200, "body": {"choices": []}}}',
      "empty choices"),
     ('{"custom_id": "k", "response": {"status_code": 400, "body": {"error": '
      '{"message": "no max_tokens"}}}}', "no max_tokens"),
     ('{"custom_id": "k", "response": {"status_code": 500, "body": {}}}',
      "without a word"),
     ('{"custom_id": "k", "response": {"status_code": 400, "body": {"error": '
      '{"code": "content_filter"}}}}', "content_filter")],
)  # fmt: skip
def test_a_line_that_is_no_answer_tells_its_reason_or_finish(row, reason):
    request = chat_request("a", "x", "", resolve())
    found = [said for _, said in batches.answers_in(row, {"k": request})]
    told = [said if isinstance(said, str) else said.finish for said in found]
    assert told == [reason] * (reason is not None)
