"""Estimates, budgets, pace, looser forms, and the command that fills the store."""

import json
import threading

import faults
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from nbutils.__main__ import app
from nbutils.core.errors import LabError
from nbutils.core.settings import resolve
from nbutils.encoder import models
from nbutils.llm import costs
from nbutils.llm.client import Client
from nbutils.llm.store import Answer, Store
from nbutils.synthesis import generate, plan, recording, recordings, replies


def priced(tmp_path, **changes):
    """A served model whose 300 tokens cost 1 + 4 = 5 in all."""
    path = tmp_path / "prices.csv"
    path.write_text(
        "model,input_per_million,output_per_million,batch_factor,currency,as_of\n"
        "served,10000,20000,0.5,XYZ,2026-11\n"
    )
    return resolve(
        overrides={
            "families": ["health"], "llm_mode": "live", "llm_model": "served",
            "llm_store": str(tmp_path / "s.sqlite"), "llm_prices": str(path),
            "llm_retries": 0, "llm_max_tokens": 400,
        } | changes
    )  # fmt: skip


# -- estimate


def test_an_estimate_counts_what_is_missing_and_follows_the_price(tmp_path):
    settings = priced(tmp_path)
    store = Store(settings.llm.store)
    table = recording.estimate(settings, store).set_index("stage")
    responses = recordings.recorded_responses("health")
    assert table.loc["all", "requests"] == len(responses) == table.loc["all", "ask"]
    prompts = [r.prompt for r in plan.seed_requests("health")]
    count = models.token_counter()
    assert table.loc["seed", "prompt_tokens"] == sum(count(prompts))
    texts = recordings.recorded_texts(responses)
    lengths = count([t for name, t in texts.items() if "/seed/" in name])
    assert table.loc["seed", "answer_mean"] == pytest.approx(np.mean(lengths))
    row = table.loc["seed"]
    wanted = row["prompt_tokens"] * 0.01 + row["ask"] * row["answer_mean"] * 0.02
    assert row["cost"] == pytest.approx(wanted)
    assert row["batch_cost"] == pytest.approx(wanted / 2)
    assert table["cost"][:-1].sum() == pytest.approx(table.loc["all", "cost"])


def test_a_pilot_tells_the_lengths_and_is_not_asked_again(tmp_path):
    settings = priced(tmp_path)
    store = Store(settings.llm.store)
    chats = [r.chat(settings) for r in plan.seed_requests("health")][:6]
    for number, chat in enumerate(chats):
        usage = {"prompt_tokens": 5, "completion_tokens": 100 + number}
        store.put(chat, Answer(chat.key, "x", usage))
    row = recording.estimate(settings, store, ["seed"]).iloc[0]
    assert (row["stored"], row["ask"], row["from"]) == (6, 42, "pilot")
    assert row["answer_mean"] == pytest.approx(102.5)
    other = settings.changed(llm_model="gpt-4o")
    row = recording.estimate(other, store, ["seed"]).iloc[0]
    assert (row["stored"], row["from"]) == (0, "recordings")


def test_the_command_prints_it_and_names_what_is_wrong(tmp_path):
    priced(tmp_path)
    base = ["--set", f"llm_store={tmp_path / 's.sqlite'}", "--set", "families=[health]"]
    run = CliRunner().invoke
    own = ["--set", f"llm_prices={tmp_path / 'prices.csv'}", "--set"]
    result = run(app, ["estimate", "seed", *base, *own, "llm_model=served"])
    assert result.exit_code == 0 and "XYZ live" in result.output
    result = run(app, ["estimate", *base, "--set", "llm_model=gpt-4"])
    assert result.exit_code == 1 and "llm_prices" in result.output
    result = run(app, ["estimate", "sed", *base, "--set", "llm_model=gpt-4o"])
    assert result.exit_code == 1 and "did you mean 'seed'" in result.output


@pytest.mark.parametrize(
    ("text", "fault"),
    [("model,input_per_million\na,1\n", "lacks the column"),
     ("model,input_per_million,output_per_million,batch_factor,currency,as_of\n"
      "a,1,cheap,1,USD,2026\n", "must be numbers"),
     ("model,input_per_million,output_per_million,batch_factor,currency,as_of\n"
      "a,1,-2,1,USD,2026\n", "must be numbers")],
)  # fmt: skip
def test_a_bad_price_table_is_named(text, fault, tmp_path):
    path = tmp_path / "p.csv"
    path.write_text(text)
    with pytest.raises(LabError, match=fault):
        costs.price_table(str(path))


# -- budget and pace


def test_a_budget_stops_in_time_and_a_higher_one_goes_on(server, tmp_path):
    settings = priced(tmp_path, llm_max_cost=60.0, llm_in_flight=4)
    client = generate.open_client(settings)
    with pytest.raises(costs.BudgetReached, match="--max-cost"):
        generate.retrieval_items(settings, client)
    arrived = len(client.store)
    assert 0 < arrived < 48 and 5 * arrived <= 60
    with pytest.raises(costs.BudgetReached):  # also after a restart
        again = generate.open_client(settings)
        generate.retrieval_items(settings, again)
    more = priced(tmp_path, llm_max_cost=10_000.0)
    client = generate.open_client(more)
    items, rejections = generate.retrieval_items(more, client)
    assert len(items) + len(rejections) == 48
    assert {r.reason for r in rejections} <= {"duplicate_query"}  # equal prompts
    assert sum(server.attempts.values()) == len(client.store) == 48


def test_pace_spreads_units_over_the_minute():
    now, waits = [0.0], []

    def sleep(seconds):
        waits.append(seconds)
        now[0] += seconds

    pace = costs.Pace(60, clock=lambda: now[0], sleep=sleep)
    for _ in range(4):
        pace.take()
    assert now[0] == pytest.approx(3.0) and len(waits) == 3
    pace.take(10)
    pace.settle(9)  # nine of the ten were not used
    pace.take()
    assert now[0] == pytest.approx(5.0)
    assert costs.Pace(0).take(1e9) is None


def test_attempts_a_minute_are_limited(server, tmp_path):
    import time

    settings = priced(tmp_path, llm_requests_per_minute=600, llm_in_flight=8)
    client = generate.open_client(settings)
    began = time.monotonic()
    client.complete_many([r.chat(settings) for r in plan.seed_requests("health")][:10])
    assert time.monotonic() - began >= 0.9  # ten at 0.1 s each, the first at once


# -- looser forms


def test_a_server_without_schemas_is_asked_in_a_looser_form_from_then_on(
    server, tmp_path, monkeypatch
):
    forms = []
    reply = faults._Handler._reply

    def picky(self, fault, body):
        form = body.get("response_format", {}).get("type", "none")
        forms.append(form)
        if form == "json_schema":
            return 400, "application/json", b'{"error": {"message": "no such form"}}'
        return reply(self, fault, body)

    monkeypatch.setattr(faults._Handler, "_reply", picky)
    settings = priced(tmp_path, llm_in_flight=1)
    client = generate.open_client(settings)
    client.complete_many([r.chat(settings) for r in plan.seed_requests("health")][:3])
    assert forms == ["json_schema", "json_object", "json_object", "json_object"]
    assert client.form == "json_object" and len(client.store) == 3


# -- record


def test_record_asks_for_the_stages_and_what_they_need(server, tmp_path):
    settings = priced(tmp_path, max_items=5)
    client = generate.open_client(settings)
    shown = []
    progress, results = recording.record(
        settings, client, ["syneg"], lambda p: shown.append(p.arrived.total())
    )
    assert list(results) == ["seed", "syneg"]
    assert results["syneg"] == (5, []) and results["seed"] == (5, [])
    assert progress.arrived == progress.accepted == {"seed": 5, "syneg": 5}
    assert shown == list(range(1, 11))


def test_rejected_answers_are_counted_by_reason(server, tmp_path, monkeypatch):
    for prompt, text in server.answers.items():
        server.answers[prompt] = text.replace('"title"', '"name"')
    settings = priced(tmp_path, max_items=3, llm_reasks=0)
    client = generate.open_client(settings)
    progress, results = recording.record(settings, client, ["seed"])
    assert progress.rejected == {("seed", "wrong_keys"): 3}
    assert len(results["seed"][1]) == 3 and len(client.store.rejections()) == 3


def test_the_command_records_shows_and_resumes(server, tmp_path):
    settings = priced(tmp_path)
    arguments = [
        "record", "seed", "--set", "families=[health]", "--set", "llm_model=served",
        "--set", f"llm_store={settings.llm.store}", "--set", "max_items=4",
        "--set", f"llm_prices={settings.llm.prices}",
    ]  # fmt: skip
    result = CliRunner().invoke(app, [*arguments, "--max-cost", "20"])
    assert result.exit_code == 1 and "budget" in result.output
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    assert "seed: 4 records, 0 rejected" in result.output
    assert sum(server.attempts.values()) == 4
    assert "planted" not in result.output


def test_record_mode_asks_also_for_what_is_shipped(server, tmp_path):
    requests = [r.chat(resolve()) for r in plan.seed_requests("health")][:2]
    shipped = recordings.recorded_answers(["health"], resolve())
    assert {r.key for r in requests} <= set(shipped)
    settings = priced(tmp_path, llm_mode="record")
    client = Client(settings, shipped, replies.SCHEMAS)
    client.complete_many(requests)
    assert client.requested == len(client.store) == 2


# -- several processes


def test_two_clients_share_a_store(server, tmp_path):
    settings = priced(tmp_path, llm_in_flight=4)
    requests = [r.chat(settings) for r in plan.seed_requests("health")]
    clients = [Client(settings, schemas=replies.SCHEMAS) for _ in range(2)]
    threads = [
        threading.Thread(target=client.complete_many, args=(part,))
        for client, part in zip(clients, (requests[:30], requests[18:]), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    texts = dict(clients[0].store.dump())
    assert len(texts) == 48
    for request in requests:
        assert json.loads(texts[request.key])
    assert isinstance(pd.DataFrame(clients[1].store.usage()), pd.DataFrame)
