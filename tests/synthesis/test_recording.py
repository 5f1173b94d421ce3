"""Estimates, budgets, and the commands that fill the store."""

import json
from concurrent.futures import ThreadPoolExecutor

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
from nbutils.synthesis import generate, prompts, recording


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
    settings, count = priced(), recording.count_tokens
    table = recording.estimate(settings).set_index("stage")
    pairs = prompts.recorded("health")
    assert table.loc["all", "requests"] == len(pairs) == table.loc["all", "ask"]
    texts, said = zip(
        *((r.text, t) for r, t in pairs if r.stage == "seed"), strict=True
    )
    row = table.loc["seed"]
    assert row["prompt_tokens"] == sum(count(texts))
    assert row["answer_mean"] == pytest.approx(np.mean(count(said)))
    wanted = row["prompt_tokens"] * 0.01 + row["ask"] * row["answer_mean"] * 0.02
    assert row["cost"] == pytest.approx(wanted) == 2 * row["batch_cost"]
    assert row["cost_p90"] > row["cost"]
    assert table["cost"][:-1].sum() == pytest.approx(table.loc["all", "cost"])


def test_tokens_of_other_scripts_are_not_counted_as_one_a_run():
    texts = ["กาแฟทำให้คนตื่นตอนกลางคืน", "咖啡会让人清醒", "tea"]
    thai, chinese, english = recording.count_tokens(texts)
    assert thai >= 20 and chinese >= 7 and english == 1


def test_a_pilot_tells_the_lengths_and_is_not_asked_again(priced):
    settings = priced()
    store = Store(settings.llm.store)
    for number, request in enumerate(list(prompts.seed_requests("health"))[:6]):
        usage = {"prompt_tokens": 5, "completion_tokens": 100 + number}
        chat = request.chat(settings)
        store.keep(chat, Answer(chat.key, "x", usage))
    row = recording.estimate(settings, ["seed"]).iloc[0]
    assert (row["stored"], row["ask"], row["from"]) == (6, 42, "pilot")
    assert row["answer_mean"] == pytest.approx(102.5)
    filtered, blank = list(prompts.seed_requests("health"))[6:8]
    for request, finish in ((filtered, "content_filter"), (blank, "stop")):
        chat = request.chat(settings)
        store.keep(chat, Answer(chat.key, " ", finish=finish))
    row = recording.estimate(settings, ["seed"]).iloc[0]
    assert (row["stored"], row["ask"]) == (7, 41)  # what is filtered is answered
    other = settings.changed(llm_model="gpt-4o")
    row = recording.estimate(other, ["seed"]).iloc[0]
    assert (row["stored"], row["from"]) == (0, "recordings")


def test_the_estimate_is_printed_and_what_is_wrong_named(priced):
    said = command(priced(), "estimate", "seed")
    assert "XYZ live" in said and "by the default prompt" in said
    assert "llm_prices" in command(priced(llm_model="gpt-4"), "estimate", code=1)
    assert "did you mean 'seed'" in command(priced(), "estimate", "sed", code=1)


def test_a_budget_stops_in_time_and_a_higher_one_goes_on(server, priced):
    def items_for(cost):
        settings = priced(llm_max_cost=cost, llm_in_flight=4)
        return generate.retrieval_items(generate.open_client(settings))

    for _ in range(2):  # also after a restart
        with pytest.raises(costs.BudgetReached, match="--max-cost"):
            items_for(60.0)
        arrived = len(Store(priced().llm.store))
        assert 0 < arrived < 48 and 5 * arrived <= 60
    items, rejections = items_for(10_000.0)
    assert len(items) + len(rejections) == 48
    assert {r.reason for r in rejections} <= {"duplicate_query"}  # equal prompts
    assert server.attempts.total() == len(Store(priced().llm.store)) == 48


def test_answers_that_can_never_be_long_enough_are_not_paid_for(server, priced):
    settings = priced(llm_max_tokens=50)
    with pytest.raises(LabError, match=r"1\d\d words or more.*llm_max_tokens is 50"):
        generate.retrieval_items(generate.open_client(settings))
    assert not server.seen


def test_record_asks_for_the_stages_and_what_they_need(server, priced):
    client, seen = generate.open_client(priced(max_items=5)), {"seed": [], "syneg": []}
    made = recording.record(client, ["syneg"], lambda s, o: seen[s].append(o))
    assert list(made) == ["seed", "syneg"]
    for stage, (accepted, rejected) in made.items():
        assert len(accepted) == 5 and rejected == []
        assert sorted(seen[stage], key=lambda r: r.id) == accepted


def test_the_command_records_resumes_and_counts_what_is_rejected(server, priced):
    arguments = (priced(), "record", "seed", "--set")
    assert "budget" in command(*arguments, "max_items=4", "--max-cost", "20", code=1)
    said = command(*arguments, "max_items=4")
    assert "seed: 4 records, 0 rejected" in said and "planted" not in said
    assert server.attempts.total() == 4
    for prompt, text in server.answers.items():
        server.answers[prompt] = text.replace('"title"', '"name"')
    said = command(*arguments, "max_items=7", "--set", "llm_reasks=0")
    assert "rejected: wrong_keys │ 3" in said and "accepted" in said


def test_a_servers_words_are_no_markup(server, priced, capsys):
    with recording.on_terminal(priced(), batch=True) as (client, _):
        client.prefetch.__self__.say("no [/v1/x] here")
    assert "no [/v1/x] here" in capsys.readouterr().out


def test_record_mode_asks_also_for_what_is_shipped(server, priced):
    requests = [r.chat(resolve()) for r in prompts.seed_requests("health")][:2]
    client = generate.open_client(priced(llm_mode="record"))
    assert {r.key for r in requests} <= {*prompts.recorded_answers(priced())}
    client.complete_many(requests)
    assert client.requested == len(client.store) == 2


def test_two_clients_share_a_store(server, priced):
    requests = [r.chat(priced()) for r in prompts.seed_requests("health")]
    clients = [Client(priced()), Client(priced())]
    with ThreadPoolExecutor() as pool:
        parts = requests[:30], requests[18:]
        list(pool.map(Client.complete_many, clients, parts))
    texts = faults.texts_in(clients[0].store)
    assert len(texts) == len(clients[1].store) == 48
    assert all(json.loads(texts[request.key]) for request in requests)
