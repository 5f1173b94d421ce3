"""Estimates, budgets, and the commands that fill the store."""

import json
import threading

import faults
import numpy as np
import pytest
from typer.testing import CliRunner

from nbutils.__main__ import app
from nbutils.core.errors import LabError
from nbutils.core.settings import resolve
from nbutils.llm import costs
from nbutils.llm.client import Client
from nbutils.llm.store import Answer, Store
from nbutils.synthesis import generate, plan, recording


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
    pairs = plan.recorded("health")
    assert table.loc["all", "requests"] == len(pairs) == table.loc["all", "ask"]
    count = recording.count_tokens
    seeds = [(r.text, text) for r, text in pairs if r.stage == "seed"]
    assert table.loc["seed", "prompt_tokens"] == sum(count(r for r, _ in seeds))
    lengths = count(text for _, text in seeds)
    assert table.loc["seed", "answer_mean"] == pytest.approx(np.mean(lengths))
    row = table.loc["seed"]
    wanted = row["prompt_tokens"] * 0.01 + row["ask"] * row["answer_mean"] * 0.02
    assert row["cost"] == pytest.approx(wanted)
    assert row["batch_cost"] == pytest.approx(wanted / 2)
    assert table["cost"][:-1].sum() == pytest.approx(table.loc["all", "cost"])


def test_tokens_of_other_scripts_are_not_counted_as_one_a_run():
    count = recording.count_tokens
    thai, chinese, english = count(["กาแฟทำให้คนตื่นตอนกลางคืน", "咖啡会让人清醒", "tea"])
    assert thai >= 20 and chinese >= 7 and english == 1


def test_a_pilot_tells_the_lengths_and_is_not_asked_again(tmp_path):
    settings = priced(tmp_path)
    store = Store(settings.llm.store)
    chats = [r.chat(settings) for r in plan.seed_requests("health")][:6]
    for number, chat in enumerate(chats):
        usage = {"prompt_tokens": 5, "completion_tokens": 100 + number}
        store.keep(chat, Answer(chat.key, "x", usage))
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


def test_answers_that_can_never_be_long_enough_are_not_paid_for(server, tmp_path):
    settings = priced(tmp_path, llm_max_tokens=50)
    with pytest.raises(LabError, match=r"1\d\d words or more.*llm_max_tokens is 50"):
        generate.retrieval_items(settings, generate.open_client(settings))
    assert not server.seen


# -- record


def test_record_asks_for_the_stages_and_what_they_need(server, tmp_path):
    settings = priced(tmp_path, max_items=5)
    client = generate.open_client(settings)
    seen = {"seed": [], "syneg": []}
    made = recording.record(settings, client, ["syneg"], lambda s: seen[s].append)
    assert list(made) == ["seed", "syneg"]
    for stage, (accepted, rejected) in made.items():
        assert len(accepted) == 5 and rejected == []
        assert sorted(seen[stage], key=lambda r: r.id) == accepted


def test_rejected_answers_are_counted_by_reason(server, tmp_path, monkeypatch):
    for prompt, text in server.answers.items():
        server.answers[prompt] = text.replace('"title"', '"name"')
    settings = priced(tmp_path, max_items=3, llm_reasks=0)
    client = generate.open_client(settings)
    accepted, rejected = recording.record(settings, client, ["seed"])["seed"]
    assert accepted == [] and [r.reason for r in rejected] == ["wrong_keys"] * 3


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
    settings = priced(tmp_path, llm_mode="record")
    shipped = plan.recorded_answers(settings)
    assert {r.key for r in requests} <= set(shipped)
    client = Client(settings, shipped)
    client.complete_many(requests)
    assert client.requested == len(client.store) == 2


# -- several processes


def test_two_clients_share_a_store(server, tmp_path):
    settings = priced(tmp_path, llm_in_flight=4)
    requests = [r.chat(settings) for r in plan.seed_requests("health")]
    clients = [Client(settings) for _ in range(2)]
    threads = [
        threading.Thread(target=client.complete_many, args=(part,))
        for client, part in zip(clients, (requests[:30], requests[18:]), strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    texts = faults.texts_in(clients[0].store)
    assert len(texts) == len(clients[1].store) == 48
    assert all(json.loads(texts[request.key]) for request in requests)
