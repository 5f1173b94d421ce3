"""The client: replay, live over real HTTP, what is kept, and what never leaks."""

from __future__ import annotations

import json
import logging

import faults
import pytest

from nbutils.core.errors import LabError
from nbutils.core.settings import resolve
from nbutils.llm import costs
from nbutils.llm.client import Client
from nbutils.llm.sdk import Server
from nbutils.llm.store import Answer, ChatRequest, Store, chat_request
from nbutils.synthesis import generate, plan

KEY = "sk-planted-0123456789"


def live(tmp_path, **changes):
    chosen = {"families": ["health"], "llm_retries": 0} | changes
    return faults.settings_for(tmp_path / "answers.sqlite", **chosen)


def first_requests(settings, count=3):
    return [r.chat(settings) for r in plan.brainstorm_requests("health")][:count]


# -- keys


def test_key_depends_on_everything_that_decides_an_answer():
    settings = resolve()
    base = chat_request("a/b", "hello", "mgh", settings)
    same = chat_request("another/id", "hello", "mgh", settings, json_schema={"a": 1})
    others = [{"llm_model": "x"}, {"llm_temperature": 0.5}, {"llm_top_p": 0.5},
              {"llm_max_tokens": 5}]  # fmt: skip
    changed = [
        chat_request("a/b", "hello.", "mgh", settings),
        chat_request("a/b", "hello", "seed", settings),
        chat_request("a/b", "hello", "mgh", settings, sample=1),
        *(chat_request("a/b", "hello", "mgh", settings.changed(**c)) for c in others),
    ]
    assert same.key == base.key
    assert len({request.key for request in [base, *changed]}) == len(changed) + 1
    message = ({"role": "user", "content": "x"},)
    one, same = (ChatRequest("a", message, "", "m", {"t": n}) for n in (1, 1.0))
    assert one.key == same.key


# -- replay


def test_missing_request_names_itself_and_the_way_out(tmp_path):
    store = tmp_path / "none.sqlite"
    settings = resolve(overrides={"llm_store": str(store), "llm_temperature": 0.3})
    request = chat_request("home/mgh/sts/0/0", "never asked", "mgh", settings)
    client = Client(settings)
    for ask in (client.complete, lambda r: client.complete_many([r])):
        with pytest.raises(LabError) as caught:
            ask(request)
        message = str(caught.value)
        for part in ("home/mgh/sts/0/0", "stage mgh", "family home", "OPENAI_BASE_URL",
                     "OPENAI_API_KEY", "llm_mode", "temperature 0.3"):  # fmt: skip
            assert part in message
        assert "\n" not in message and not store.exists()


# -- live


def test_live_answer_is_stored_and_not_requested_again(server, tmp_path):
    settings = live(tmp_path)
    client = generate.open_client(settings)
    tasks, rejections = generate.brainstorm(settings, client)
    assert (len(tasks), rejections) == (20, [])
    assert client.requested == len(server.seen) == 5
    assert server.seen[0]["model"] == "served"
    for mode in ("live", "replay"):
        again = live(tmp_path, llm_mode=mode)
        assert generate.brainstorm(again, generate.open_client(again))[0] == tasks
    assert len(server.seen) == 5
    request = first_requests(settings, 1)[0]
    answer = client.complete(request)
    assert answer == client.store.answer(request.key)
    assert answer.usage["completion_tokens"] == 200
    assert (answer.model, answer.finish) == ("served", "stop")
    assert answer.latency > 0 and answer.time.startswith("20")
    client.close()
    for path in tmp_path.iterdir():
        assert b"planted" not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("cut", "reason"),
    [(("length", '["Given a'), "cut_off"), (("content_filter", "I can"), "filtered")],
)
def test_a_refused_answer_stays_and_is_asked_again_with_its_fault(
    cut, reason, server, tmp_path
):
    settings = live(tmp_path, llm_reasks=1)
    planned = list(plan.brainstorm_requests("health"))[:1]
    server.cut = cut
    client = generate.open_client(settings)
    accepted, (rejection,) = generate.fulfil(planned, settings, client)
    assert (accepted, rejection.reason, len(server.seen)) == ([], reason, 2)
    again = server.seen[1]["messages"]
    assert "cannot be used" in again[-1]["content"]
    assert len(again) == 3
    generate.fulfil(planned, settings, client)
    assert len(server.seen) == len(client.store) == 2  # paid for once
    server.cut = None
    more = live(tmp_path, llm_reasks=2)
    tasks, rejections = generate.fulfil(planned, more, generate.open_client(more))
    assert (len(tasks), rejections, len(server.seen)) == (1, [], 3)
    replay = live(tmp_path, llm_mode="replay", llm_reasks=2)
    assert generate.fulfil(planned, replay, generate.open_client(replay))[0] == tasks


def test_an_answer_without_text_is_asked_again_as_it_was_and_paid_stays_counted(
    server, tmp_path
):
    settings = live(tmp_path, llm_reasks=1)
    planned = list(plan.brainstorm_requests("health"))[:1]
    server.cut = ("stop", " \n")
    for run in (1, 2):
        client = generate.open_client(settings)
        _, (rejection,) = generate.fulfil(planned, settings, client)
        assert (rejection.reason, len(server.seen)) == ("not_json", 2 * run)
    assert {len(body["messages"]) for body in server.seen} == {1}
    replay = live(tmp_path, llm_mode="replay")
    _, (again,) = generate.fulfil(planned, replay, generate.open_client(replay))
    assert again == rejection
    server.cut = None  # repaired
    for _ in range(2):
        client = generate.open_client(settings)
        assert len(generate.fulfil(planned, settings, client)[0]) == 1
        assert len(server.seen) == 5 == len(client.store.usage())


def test_a_prompt_that_the_server_filters_is_an_answer(server, tmp_path, monkeypatch):
    fault = {"error": {"message": "no", "code": "content_filter"}}
    reply = (400, "application/json", json.dumps(fault).encode())
    monkeypatch.setattr(faults._Handler, "_reply", lambda *_: reply)
    settings = live(tmp_path, llm_reasks=0)
    client = generate.open_client(settings)
    planned = list(plan.seed_requests("health"))[:1]
    _, (rejection,) = generate.fulfil(planned, settings, client)
    assert rejection.reason == "filtered" and len(client.store) == 1


def test_many_keep_their_order_and_a_repeat_is_asked_once(server, tmp_path):
    settings = live(tmp_path, llm_in_flight=4)
    client = generate.open_client(settings)
    requests = first_requests(settings)
    answers = client.complete_many([*requests, requests[0]])
    assert [a.key for a in answers] == [r.key for r in [*requests, requests[0]]]
    assert client.requested == len(client.store) == 3


def test_structured_output_is_sent_for_objects_in_the_order_asked_for(server, tmp_path):
    settings = live(tmp_path)
    client = generate.open_client(settings)
    for request, _ in plan.recorded("health"):
        if request.id.endswith(("/sts", "/seed/00", "/syneg/00", "/sts/0/0")):
            client.complete(request.chat(settings))
    told = [b["response_format"] for b in server.seen if "response_format" in b]
    forms = {form["json_schema"]["name"]: form["json_schema"] for form in told}
    found = {name: form["schema"]["required"] for name, form in forms.items()}
    assert len(server.seen) == 4 and found == {
        "seed": ["query", "title", "positives"],
        "mgh": ["query", "positive_example", "hard_negative_examples"],
        "syneg": ["reasoning", "hard_negatives"],
    }


# -- what never leaks, and what is said


def test_a_refused_key_is_said_and_never_shown(server, tmp_path, caplog, capsys):
    server.status = 401
    settings = live(tmp_path)
    with caplog.at_level(logging.DEBUG), pytest.raises(LabError) as caught:
        generate.brainstorm(settings, generate.open_client(settings))
    assert "OPENAI_API_KEY" in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.__cause__ is None
    everything = f"{caught.value}{caplog.text}{capsys.readouterr()}"
    assert KEY not in everything and "planted" not in everything


def test_an_unreachable_server_and_a_model_without_a_name_are_one_line(
    monkeypatch, tmp_path
):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://user:planted@127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    settings = live(tmp_path, llm_timeout_s=2.0)
    with pytest.raises(LabError, match=r"127\.0\.0\.1 cannot be reached") as caught:
        Client(settings).complete(first_requests(settings, 1)[0])
    assert "planted" not in str(caught.value)
    with pytest.raises(LabError, match="llm_model"):
        Server(live(tmp_path, llm_model="recorded"))


# -- store


def test_first_answer_stays_and_a_damaged_store_names_the_setting(tmp_path):
    store = Store(tmp_path / "s.sqlite")
    request = chat_request("a", "x", "", resolve())
    store.keep(request, Answer(request.key, "first", {"prompt_tokens": 3}))
    store.keep(request, Answer(request.key, "second"))
    assert store.answer(request.key).text == "first"
    assert store.usage() == [("a", "recorded", 3, 0)]
    path = tmp_path / "other.sqlite"
    path.write_text("not a database, and long enough to be read as one" * 50)
    with pytest.raises(LabError, match="llm_store"):
        Store(path).answer("key")


# -- prices and pace

COLUMNS = "model,input_per_million,output_per_million,batch_factor,currency,as_of\n"


@pytest.mark.parametrize(
    ("text", "fault"),
    [("model,input_per_million\na,1\n", "output_per_million: Field required"),
     (f"{COLUMNS}a,1,cheap,1,USD,2026\n", "output_per_million: .*number"),
     (f"{COLUMNS}a,1,-2,1,USD,2026\n", "output_per_million: .*greater"),
     (f"{COLUMNS}a,1,,1,USD,2026\n", "output_per_million: ")],
)  # fmt: skip
def test_a_bad_price_table_is_named(text, fault, tmp_path):
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(LabError, match=rf"p\.csv.*{fault}"):
        costs.price_table(str(path))


def test_own_prices_go_before_the_shipped_ones(tmp_path):
    path = tmp_path / "p.csv"
    path.write_text(f"{COLUMNS}gpt-4o,1,2,1,EUR,2026\n")
    settings = resolve(overrides={"llm_prices": str(path), "llm_model": "gpt-4o"})
    price = costs.price_of(settings)
    assert (price.currency, price.as_of, price.cost(1e6, 1e6)) == ("EUR", "2026", 3)
    assert costs.price_table(str(path))["model"].is_unique
    with pytest.raises(LabError, match=r"did you mean 'gpt-4o'.*llm_prices"):
        costs.price_of(settings.changed(llm_model="gpt-4oo"))


def test_pace_spreads_units_over_the_minute(monkeypatch):
    now, waits = [0.0], []

    def sleep(seconds):
        waits.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(costs.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(costs.time, "sleep", sleep)
    pace = costs.Pace(60)
    for _ in range(4):
        pace.take()
    assert now[0] == pytest.approx(3.0) and len(waits) == 3
    pace.take(10)
    pace.give_back(9)  # nine of the ten were not used
    pace.take()
    assert now[0] == pytest.approx(5.0)
    assert costs.Pace(0).take(1e9) is None


def test_attempts_a_minute_are_limited(server, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(costs.time, "sleep", waits.append)
    settings = live(tmp_path, llm_requests_per_minute=600, llm_in_flight=1)
    client = generate.open_client(settings)
    client.complete_many([r.chat(settings) for r in plan.seed_requests("health")][:9])
    # nine at 0.1 s each, the first at once; no wait is slept, so the last waits longest
    assert len(waits) >= 6 and 0.3 < max(waits) <= 0.8
