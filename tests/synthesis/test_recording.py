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


@pytest.fixture
def priced(live, tmp_path):
    """Settings of a served model whose 300 tokens cost 1 + 4 = 5 in all."""
    path = tmp_path / "prices.csv"
    path.write_text(
        "model,input_per_million,output_per_million,batch_factor,currency,as_of\n"
        "served,10000,20000,0.5,XYZ,2026-11\n"
    )
    base = {"llm_prices": str(path), "llm_max_tokens": 400, "llm_in_flight": 8}
    return lambda **changes: live(**(base | changes))


def command(settings, name, *more, code=0):
    """The output of a command under these settings, which must end with `code`."""
    named = {name: getattr(settings.llm, name) for name in ("model", "store", "prices")}
    words = [f"llm_{key}={value}" for key, value in named.items()]
    chosen = [w for word in ["families=[health]", *words] for w in ("--set", word)]
    result = CliRunner().invoke(app, [name, *chosen, *more])
    assert result.exit_code == code, result.output
    return result.output


def test_an_estimate_counts_what_is_missing_and_follows_the_price(priced):
    settings = priced()
    store = Store(settings.llm.store)
    table = recording.estimate(settings, store).set_index("stage")
    pairs, count = plan.recorded("health"), recording.count_tokens
    assert table.loc["all", "requests"] == len(pairs) == table.loc["all", "ask"]
    seeds = [(r.text, text) for r, text in pairs if r.stage == "seed"]
    assert table.loc["seed", "prompt_tokens"] == sum(count(r for r, _ in seeds))
    lengths = count(text for _, text in seeds)
    row = table.loc["seed"]
    assert row["answer_mean"] == pytest.approx(np.mean(lengths))
    wanted = row["prompt_tokens"] * 0.01 + row["ask"] * row["answer_mean"] * 0.02
    assert row["cost"] == pytest.approx(wanted)
    assert row["batch_cost"] == pytest.approx(wanted / 2)
    assert table["cost"][:-1].sum() == pytest.approx(table.loc["all", "cost"])


def test_tokens_of_other_scripts_are_not_counted_as_one_a_run():
    texts = ["กาแฟทำให้คนตื่นตอนกลางคืน", "咖啡会让人清醒", "tea"]
    thai, chinese, english = recording.count_tokens(texts)
    assert thai >= 20 and chinese >= 7 and english == 1


def test_a_pilot_tells_the_lengths_and_is_not_asked_again(priced):
    settings = priced()
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


def test_the_estimate_is_printed_and_what_is_wrong_named(priced):
    assert "XYZ live" in command(priced(), "estimate", "seed")
    assert "llm_prices" in command(priced(llm_model="gpt-4"), "estimate", code=1)
    said = command(priced(), "estimate", "sed", code=1)
    assert "did you mean 'seed'" in said


def test_a_budget_stops_in_time_and_a_higher_one_goes_on(server, priced):
    settings = priced(llm_max_cost=60.0, llm_in_flight=4)
    client = generate.open_client(settings)
    with pytest.raises(costs.BudgetReached, match="--max-cost"):
        generate.retrieval_items(settings, client)
    arrived = len(client.store)
    assert 0 < arrived < 48 and 5 * arrived <= 60
    with pytest.raises(costs.BudgetReached):  # also after a restart
        generate.retrieval_items(settings, generate.open_client(settings))
    more = priced(llm_max_cost=10_000.0)
    client = generate.open_client(more)
    items, rejections = generate.retrieval_items(more, client)
    assert len(items) + len(rejections) == 48
    assert {r.reason for r in rejections} <= {"duplicate_query"}  # equal prompts
    assert server.attempts.total() == len(client.store) == 48


def test_answers_that_can_never_be_long_enough_are_not_paid_for(server, priced):
    settings = priced(llm_max_tokens=50)
    with pytest.raises(LabError, match=r"1\d\d words or more.*llm_max_tokens is 50"):
        generate.retrieval_items(settings, generate.open_client(settings))
    assert not server.seen


def test_record_asks_for_the_stages_and_what_they_need(server, priced):
    settings = priced(max_items=5)
    client = generate.open_client(settings)
    seen = {"seed": [], "syneg": []}
    made = recording.record(
        settings, client, ["syneg"], lambda stage, made: seen[stage].append(made)
    )
    assert list(made) == ["seed", "syneg"]
    for stage, (accepted, rejected) in made.items():
        assert len(accepted) == 5 and rejected == []
        assert sorted(seen[stage], key=lambda r: r.id) == accepted


def test_rejected_answers_are_counted_by_reason(server, priced):
    for prompt, text in server.answers.items():
        server.answers[prompt] = text.replace('"title"', '"name"')
    assert "rejected: wrong_keys │ 3" in command(
        priced(), "record", "seed", "--set", "max_items=3", "--set", "llm_reasks=0"
    )


def test_the_command_records_shows_and_resumes(server, priced):
    arguments = (priced(), "record", "seed", "--set", "max_items=4")
    assert "budget" in command(*arguments, "--max-cost", "20", code=1)
    said = command(*arguments)
    assert "seed: 4 records, 0 rejected" in said and "planted" not in said
    assert server.attempts.total() == 4


def test_record_mode_asks_also_for_what_is_shipped(server, priced):
    requests = [r.chat(resolve()) for r in plan.seed_requests("health")][:2]
    settings = priced(llm_mode="record")
    shipped = plan.recorded_answers(settings)
    assert {r.key for r in requests} <= set(shipped)
    client = Client(settings, shipped)
    client.complete_many(requests)
    assert client.requested == len(client.store) == 2


def test_two_clients_share_a_store(server, priced):
    settings = priced()
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
