"""The client: replay, live over real HTTP, under faults and kills; what it costs."""

import logging
import time

import faults
import pytest

from nbutils.core.errors import LabError
from nbutils.core.records import Rejection
from nbutils.core.settings import resolve
from nbutils.llm import costs
from nbutils.llm.client import Client
from nbutils.llm.sdk import Server
from nbutils.llm.store import Answer, ChatRequest, Store, chat_request
from nbutils.synthesis.generate import brainstorm, fulfil, open_client
from nbutils.synthesis.prompts import brainstorm_requests, recorded
from nbutils.synthesis.replies import parse

PLANNED = list(brainstorm_requests("health"))


def test_a_key_depends_on_everything_that_decides_an_answer():
    settings = resolve()

    def key(name="a/b", prompt="hello", schema="mgh", sample=0, form=None, **changes):
        chosen = settings.changed(**changes)
        return chat_request(name, prompt, schema, chosen, sample, form).key

    others = [{"llm_model": "x"}, {"llm_temperature": 0.5}, {"llm_top_p": 0.5},
              {"llm_max_tokens": 5}, {"prompt": "hello."}, {"schema": "seed"},
              {"sample": 1}]  # fmt: skip
    assert key() == key("another/id", form={"a": 1})
    assert len({key(), *(key(**other) for other in others)}) == len(others) + 1
    message = ({"role": "user", "content": "x"},)
    one, same = (ChatRequest("a", message, "", "m", {"t": n}) for n in (1, 1.0))
    assert one.key == same.key


def test_a_missing_request_names_itself_and_the_way_out(tmp_path):
    store = tmp_path / "none.sqlite"
    settings = resolve(overrides={"llm_store": str(store), "llm_temperature": 0.3})
    request = chat_request("home/mgh/sts/0/0", "never asked", "mgh", settings)
    client = Client(settings)
    for ask in (client.complete, lambda r: client.complete_many([r])):
        with pytest.raises(LabError) as caught:
            ask(request)
        for part in ("home/mgh/sts/0/0", "stage mgh", "family home", "OPENAI_BASE_URL",
                     "OPENAI_API_KEY", "llm_mode", "temperature 0.3"):  # fmt: skip
            assert part in str(caught.value)
        assert "\n" not in str(caught.value) and not store.exists()


# -- live


def test_a_live_answer_is_stored_and_not_requested_again(server, live, tmp_path):
    settings = live()
    client = open_client(settings)
    tasks, rejections = brainstorm(client)
    assert (len(tasks), rejections) == (20, [])
    assert client.requested == len(server.seen) == 5
    assert server.seen[0]["model"] == "served"
    for mode in ("live", "replay"):
        assert brainstorm(open_client(live(llm_mode=mode)))[0] == tasks
    request = PLANNED[0].chat(settings)
    answer = client.complete(request)
    assert len(server.seen) == 5 and answer == client.store.answer(request.key)
    assert answer.usage["completion_tokens"] == 200
    assert (answer.model, answer.finish) == ("served", "stop")
    assert answer.latency > 0 and answer.time.startswith("20")
    client.close()
    for path in tmp_path.iterdir():
        assert b"planted" not in path.read_bytes(), path


@pytest.mark.parametrize(
    ("text", "finish", "reason", "turns"),
    [
        ('["Given a', "length", "cut_off", 3),
        ("I can", "content_filter", "filtered", 3),
        (" \n", "stop", "not_json", 1),  # without a text: asked as it was
    ],
)
def test_a_refused_answer_stays_and_is_asked_again_with_its_fault(
    text, finish, reason, turns, server, live
):
    def ask(**changes):
        client = open_client(live(**changes))
        return *fulfil(PLANNED[:1], client), len(client.store.usage())

    server.says = lambda body: (200, faults.completion(body, text, finish))
    paid = 2
    for _ in range(2):  # what has a text is paid for once
        accepted, (rejection,), counted = ask(llm_reasks=1)
        assert (accepted, rejection.reason) == ([], reason)
        assert counted == len(server.seen) == paid
        paid += 2 * (turns == 1)
    again = server.seen[1]["messages"]
    assert len(again) == turns
    assert turns == 1 or "cannot be used" in again[-1]["content"]
    assert ask(llm_mode="replay", llm_reasks=1)[1] == [rejection]
    server.says = lambda body: None  # repaired
    for _ in range(2):
        tasks, rejections, counted = ask(llm_reasks=2)
        assert (len(tasks), rejections) == (1, [])
        assert counted == len(server.seen) == (3 if turns == 3 else 5)
    assert ask(llm_mode="replay", llm_reasks=2)[0] == tasks


def test_many_keep_their_order_and_a_repeat_is_asked_once(server, live):
    client = Client(live(llm_in_flight=4))
    requests = [planned.chat(client.settings) for planned in PLANNED[:3]]
    requests.append(requests[0])
    assert [a.key for a in client.complete_many(requests)] == [r.key for r in requests]
    assert client.requested == len(client.store) == 3


def test_structured_output_is_sent_for_objects_in_the_order_asked_for(server, live):
    client = Client(live())
    for request, _ in recorded("health"):
        if request.id.endswith(("/sts", "/seed/00", "/syneg/00", "/sts/0/0")):
            client.complete(request.chat(client.settings))
    told = [b["response_format"] for b in server.seen if "response_format" in b]
    forms = [form["json_schema"] for form in told]
    found = {form["name"]: form["schema"]["required"] for form in forms}
    assert len(server.seen) == 4 and found == {
        "seed": ["query", "title", "positives"],
        "mgh": ["query", "positive_example", "hard_negative_examples"],
        "syneg": ["reasoning", "hard_negatives"],
    }


# -- what never leaks


def test_a_refused_key_is_said_and_never_shown(server, live, caplog, capsys):
    bad = {"error": {"message": f"Incorrect API key: {faults.KEY}"}}
    server.says = lambda body: (401, bad)
    with caplog.at_level(logging.DEBUG), pytest.raises(LabError) as caught:
        brainstorm(open_client(live()))
    assert "OPENAI_API_KEY" in str(caught.value) and "\n" not in str(caught.value)
    assert caught.value.__cause__ is None
    assert "planted" not in f"{caught.value}{caplog.text}{capsys.readouterr()}"


def test_an_unreachable_server_and_a_model_without_a_name_are_named(monkeypatch, live):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://user:planted@127.0.0.1:9/v1")
    monkeypatch.setenv("OPENAI_API_KEY", faults.KEY)
    settings = live(llm_timeout_s=2.0)
    with pytest.raises(LabError, match=r"127\.0\.0\.1 cannot be reached") as caught:
        Client(settings).complete(PLANNED[0].chat(settings))
    assert "planted" not in str(caught.value)
    with pytest.raises(LabError, match="llm_model"):
        Server(live(llm_model="recorded"))


# -- faults and kills


def test_a_killed_client_loses_nothing_pays_once_and_takes_no_other_text(tmp_path):
    def refuse(body):
        form = body.get("response_format", {}).get("type")
        told = {"max_tokens", "json_schema"} & {*body, form}
        fault = {"error": {"message": f"Unsupported parameter: {told}"}}
        return (400, fault) if told else None

    server, path = faults.FaultServer(rate=0.35, streams=1), tmp_path / "s.sqlite"
    server.says = refuse
    count, store, kills = 60, Store(path), 0
    for _ in range(12):  # a stream ends a run; each asks again for what has no text
        client = faults.start(server, path, count)
        while client.is_alive() and (kills or len(store) < 20):
            time.sleep(0.01)
        kills += client.is_alive()
        client.kill()
        client.join()
        texts = faults.texts_in(store)
        server.banned = set(texts)
        if len(texts) == count:
            break
    server.shutdown()
    assert (len(texts), kills, server.asked_twice) == (count, 1, [])
    for chat in faults.requests_of(count, faults.settings_for(path)):
        request, answer = faults.planned()[chat.messages[0]["content"]]
        found = parse(request, texts[chat.key])
        assert found == parse(request, answer) and not isinstance(found, Rejection)
    # what was delivered and not stored at the kill had reached the client or its socket
    most = faults.settings_for(path).llm.in_flight
    assert server.delivered.total() - count <= most
    kinds = {"answered", *faults.FAULTS, faults.NO_TEXT, faults.STREAM}
    assert set(server.outcomes) == kinds


@pytest.mark.parametrize("fault", faults.FAULTS)
def test_each_fault_is_survived_by_the_sdks_own_retries(
    fault, server, client_of, monkeypatch
):
    left = ["answered", fault]
    monkeypatch.setattr(server, "fault_of", lambda key: left.pop())
    monkeypatch.setattr(faults, "LATE_S", 0.6)
    client, (request, *_) = client_of(llm_timeout_s=0.3, llm_retries=9)
    text = client.complete(request).text
    right = server.answers[request.messages[0]["content"]]
    assert text.endswith(right) and (text == right) == (fault != "thought")
    assert len(server.seen) == client.attempts == 1 + (fault != "thought")
    assert client.requested == len(client.store) == 1


@pytest.mark.parametrize(
    ("count", "good", "said", "changes"),
    [(24, 5, r"[34] of 24 ", {"llm_give_up": 3}), (12, 11, "1 of 12 ", {})],
)
def test_what_arrives_stays_and_a_server_that_only_fails_is_given_up(
    count, good, said, changes, server, client_of, monkeypatch
):
    client, requests = client_of(**changes)
    fine = {r.key for r in requests[:good]}
    monkeypatch.setattr(server, "fault_of", lambda k: "503" if k not in fine else "")
    with pytest.raises(LabError, match=f"{said}requests have no answer"):
        client.complete_many(requests[:count])
    assert set(faults.texts_in(client.store)) == fine
    assert client.attempts <= good + 3 + 1


def test_the_first_answer_stays_and_a_damaged_store_names_the_setting(tmp_path):
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
    [
        ("model,input_per_million\na,1\n", "Field required"),
        (f"{COLUMNS}a,1,cheap,1,USD,2026\n", ".*number"),
        (f"{COLUMNS}a,1,-2,1,USD,2026\n", ".*greater"),
        (f"{COLUMNS}a,1,,1,USD,2026\n", ""),
    ],
)
def test_a_bad_price_table_is_named(text, fault, tmp_path):
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(LabError, match=rf"p\.csv.*output_per_million: {fault}"):
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
    with pytest.raises(LabError, match=r"'recorded': set llm_model .*gpt-4o-mini"):
        costs.price_of(resolve())


def test_a_pace_spreads_units_over_the_minute(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(costs.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(costs.time, "sleep", lambda s: now.append(now.pop() + s))
    pace = costs.Pace(60)
    for _ in range(4):
        pace.take()
    assert now == [pytest.approx(3.0)]
    pace.take(10)
    pace.give_back(9)  # nine of the ten were not used
    pace.take()
    assert now == [pytest.approx(5.0)]
    assert costs.Pace(0).take(1e9) is None


def test_attempts_a_minute_are_limited(server, client_of, monkeypatch):
    waits = []
    monkeypatch.setattr(costs.time, "sleep", waits.append)
    client, requests = client_of(llm_requests_per_minute=600)
    client.complete_many(requests[:9])
    # nine at 0.1 s each, the first at once; no wait is slept, so the last waits longest
    assert len(waits) >= 6 and 0.3 < max(waits) <= 0.8
