"""The judge, seeds of a retrieval set, and SyNeg's prompt without its parts."""

import json
import re

import pandas as pd
import pytest
from typer.testing import CliRunner

from nbutils.__main__ import app
from nbutils.core import retrieval
from nbutils.core.errors import LabError
from nbutils.core.files import read_jsonl
from nbutils.core.records import GradedExample, Verdict, read_records
from nbutils.core.settings import resolve
from nbutils.core.text import normalise
from nbutils.pages import execute
from nbutils.pages.source import code_cells, load
from nbutils.synthesis import from_sets, generate, judge, prompts, replies


@pytest.fixture
def fulfil():
    """Asks planned requests under settings: what was made, and rejected."""

    def asked(requests, settings):
        return generate.fulfil(requests, generate.open_client(settings))

    return asked


# -- judge


def passage_of(prompt):
    return prompt.split("Passage: ")[1].split("\n\nDoes the")[0]


def test_verdicts_are_estimated_asked_once_and_replayed(answering, live, fulfil):
    def said(prompt):
        return json.dumps({"reason": "because", "answers": "yes" in passage_of(prompt)})

    server, settings = answering(said), live()
    texts = {"a": "yes it is {so}", "b": "no", "c": "yes"}
    pairs = [("q", "a"), ("q", "b"), ("q", "a"), ("q", "c")]
    asked = judge.judge_requests(pairs, {"q": "What?"}, texts)
    row = judge.judge_cost(asked, settings).set_index("model").loc["gpt-4o-mini"]
    assert row["requests"] == 3 and row["answer_tokens"] == 3 * judge.ANSWER_TOKENS
    assert row["prompt_tokens"] > 3 * 90
    per_token = 0.15 * row["prompt_tokens"] + 0.60 * row["answer_tokens"]
    assert row["cost"] == pytest.approx(per_token / 1e6) == 2 * row["batch_cost"]
    client, chats = generate.open_client(settings), [r.chat(settings) for r in asked]
    assert client.lacking(chats) == chats and not server.seen
    fulfil(asked[:1], settings)
    assert client.lacking(chats) == chats[1:]
    verdicts, rejections = fulfil(asked, settings)
    found = {verdict.document_id: verdict.answers for verdict in verdicts}
    assert found == {"a": True, "b": False, "c": True}
    again = fulfil(asked, live(llm_mode="replay"))
    assert again == (verdicts, []) == (verdicts, rejections)
    assert server.attempts.total() == 3


def test_page_03b_asks_a_live_judge_and_judges_it(answering, server, tmp_path):
    """The whole page, live: a server that is right but for one planted answer."""
    answers_of = {
        item.query: {normalise(text) for text in item.positives}
        for item in read_records(resolve("smoke", {"max_items": 0})).items
    }
    judged, recorded = [], dict(server.answers)

    def said(prompt):
        if not prompt.startswith("You judge"):
            return recorded.get(prompt, "{}")  # SyNeg, which this page does not read
        query = prompt.split("Query: ")[1].split("\n")[0]
        judged.append(normalise(passage_of(prompt)) in answers_of.get(query, ()))
        right = judged[-1] and sum(judged) > 1  # the first one is missed
        return json.dumps({"reason": "so it reads", "answers": right})

    answering(said)
    overrides = {"llm_mode": "live", "llm_model": "served", "llm_reasks": 0}
    overrides |= {"judged_queries": 100, "llm_store": str(tmp_path / "answers.sqlite")}
    (outcome,) = execute.run_all(["03b"], str(tmp_path), "smoke", overrides)
    made = load(outcome.folder / f"{outcome.name}.ipynb")
    shown = "\n".join(
        "".join(output.get("text", "") or output.get("data", {}).get("text/plain", ""))
        for _, cell in code_cells(made)
        for output in cell.outputs
    )
    assert len(judged) > 40
    assert f"{len(judged)} verdicts, 0 refused" in shown
    share, planted = re.search(r"naive: judge (\S+) .*planted (\S+)", shown).groups()
    assert float(share) < float(planted)
    rows = [row.split() for row in shown.split("measure")[1].splitlines()[1:5]]
    values = {name: [*map(float, numbers)] for name, *numbers in rows}
    recall, low, high = values["recall"]
    assert values["precision"][0] == 1 > recall > 0
    assert low < high <= 1


def test_a_bad_verdict_is_rejected_and_an_unknown_id_named(answering, live, fulfil):
    answering(lambda prompt: '{"reason": "x", "answers": "perhaps"}')
    asked = judge.judge_requests([("q", "a")], {"q": "?"}, {"a": "t"})
    verdicts, (fault,) = fulfil(asked, live())
    assert verdicts == [] and fault.reason == "wrong_keys"
    for pair, name in ((("q", "z"), "document 'z'"), (("y", "a"), "query 'y'")):
        with pytest.raises(LabError, match=f"{name} has no text"):
            judge.judge_requests([pair], {"q": "?"}, {"a": "t"})
    with pytest.raises(LabError, match="no verdict"):
        judge.share_answering([])


def test_agreement_is_counted_against_the_truth():
    said = {"0a": True, "0b": True, "1a": False, "1b": False, "2a": True, "2b": True}
    verdicts = [
        Verdict(id=pair, query_id=pair[0], document_id=pair[1], answers=yes, reason="")
        for pair, yes in said.items()
    ]
    right = [("0", "a"), ("1", "a"), ("2", "a"), ("2", "b"), ("9", "a")]
    table = judge.agreement(verdicts, right, samples=200).set_index("measure")
    assert table["value"].to_dict() == pytest.approx(
        {"accuracy": 4 / 6, "precision": 3 / 4, "recall": 3 / 4, "kappa": 1 / 4}
    )
    assert (table["low"] <= table["value"]).all()
    assert (table["high"] >= table["value"]).all()
    share, low, high = judge.share_answering(verdicts)
    assert share == pytest.approx(4 / 6) and low <= share <= high


# -- seeds of a retrieval set


@pytest.fixture
def graded():
    """Has ladders written for a set: what was made, and rejected."""

    def written(data, settings):
        asked = from_sets.seeded_requests(data, settings)
        return from_sets.graded(asked, generate.open_client(settings))

    return written


def written(prompt):
    """Four texts, or one where one is asked for."""
    if "hard_negative_examples" in prompt:
        made = [
            {"similarity_level": name, "text": f"Written {n} as {name}."}
            for n, name in enumerate(replies.LEVEL_NAMES, 1)
        ]
        return json.dumps({"hard_negative_examples": made})
    places = enumerate(from_sets.LEVEL_TEXTS.values(), 1)
    place = next(n for n, text in places if text in prompt)
    return json.dumps({"text": f"Written {place} alone."})


@pytest.mark.parametrize(("calls", "count"), [("ladder", 6), ("level", 24)])
def test_a_ladder_is_written_for_each_seed_in_one_call_or_four(
    calls, count, answering, own_set, live, graded
):
    server, data = answering(written), retrieval.read_set(own_set)
    settings = live(mgh_calls=calls, languages=["French", "Thai"])
    examples, refused = graded(data, settings)
    assert refused == [] and server.attempts.total() == count
    assert [e.id for e in examples] == [
        f"{data.name}/mgh-seeded/q{n}" for n in range(6)
    ]
    assert [e.query for e in examples] == [*data.queries.values()]
    assert all(isinstance(e, GradedExample) for e in examples)
    assert [t.split()[1] for t in examples[0].negatives] == ["1", "2", "3", "4"]
    for language in settings.synthesis.languages:
        told = (
            f"Language: {language}" in str(body["messages"]) for body in server.seen
        )
        assert sum(told) == count / 2


@pytest.mark.parametrize(
    ("said", "name", "reason"),
    [("no", "/N3", "not_json"),
     ('{"text": "document 1 of 7"}', "/N3", "duplicate_text"),
     ('{"text": "Written 1 alone."}', "", "duplicate_text")],
)  # fmt: skip
def test_a_seed_with_a_bad_level_is_refused_whole(
    said, name, reason, answering, own_set, live, graded
):
    bad = from_sets.LEVEL_TEXTS["N3"]
    answering(lambda p: said if bad in p and "which is 1" in p else written(p))
    data = retrieval.read_set(own_set)
    examples, (fault,) = graded(data, live(mgh_calls="level"))
    assert [e.query[-1] for e in examples] == ["0", "2", "3", "4", "5"]
    assert (fault.id, fault.reason) == (f"{data.name}/mgh-seeded/q1{name}", reason)


@pytest.mark.parametrize("calls", ["ladder", "level"])
def test_only_what_the_model_wrote_is_judged(calls, answering, live, graded):
    """The user's texts are long, speak of queries, and one is its own answer."""
    long = "This query as a hard negative. " * 400
    corpus = pd.DataFrame({"id": ["d0", "d1"], "text": [long, "same"]})
    queries, positives = (
        {"q0": "As an AI?", "q1": "same"},
        {"q0": ["d0", "d1"], "q1": ["d1"]},
    )
    answering(written)
    data = retrieval.RetrievalSet("own", queries, corpus, positives)
    made, refused = graded(data, live(mgh_calls=calls))
    assert [e.positive for e in made] == [long, "same"] and refused == []


def test_the_command_tells_the_cost_then_grades_and_goes_on(
    answering, own_set, tmp_path
):
    server, out = answering(written), tmp_path / "graded.jsonl"
    base = ["grade", str(own_set), "--out", str(out), "--set"]
    base += ["llm_model=gpt-4o-mini", "--set", f"llm_store={tmp_path / 's.sqlite'}"]
    live = ["--set", "llm_mode=live"]

    def run(*more, code=0):
        result = CliRunner().invoke(app, [*base, *more])
        assert result.exit_code == code, result.output
        return result.output

    assert "USD live" in run("--estimate") and not server.seen
    assert "not among the recorded answers" in run(code=1)
    assert "budget" in run(*live, "--max-cost", "0.000001", code=1)
    assert not server.seen and not out.exists()
    assert "1 graded examples, 0 rejected" in run(*live, "--limit", "1")
    assert "6 graded examples" in run(*live) and len(server.seen) == 6
    assert "6 graded examples" in run() and len(server.seen) == 6  # replayed
    asked = [example.query for example in read_jsonl(out, GradedExample)]
    assert asked == [f"which is {n}" for n in range(6)]
    named = ["--profile", "paper", "--set", "llm_temperature=0.5"]  # its mode is live
    assert "6 graded examples" in run(*named) and len(server.seen) == 12


# -- SyNeg's prompt without its parts


def test_the_four_prompts_differ_in_what_they_leave_out():
    items = read_records(resolve("smoke")).items[:1]
    for reflection, attributes in replies.SYNEG:
        first, *more = prompts.syneg_requests(items, reflection, attributes)
        assert not more or attributes
        assert ("[Reasoning]" in first.text) == reflection
        assert ('"reasoning"' in first.text) == reflection
        assert ("[Attributes]" in first.text) == attributes
        assert "[Hard negative]" in first.text and "[Format]" in first.text


def test_an_answer_to_the_plain_prompt_needs_no_reasoning(answering, live):
    answering(lambda p: json.dumps({"hard_negatives": ["one text", "two texts"]}))
    settings = live(syneg_reflection=False, syneg_attributes=False)
    base = read_records(resolve("smoke")).items[0]
    item = base.model_copy(update={"positives": ("a text", "b", "c")})
    client = generate.open_client(settings)
    (made,), rejections = generate.syneg_examples([item], client)
    assert (rejections, made.reasoning, made.attribute) == ([], "", "none")
    replay = resolve(overrides={"syneg_reflection": False, "families": ["health"]})
    with pytest.raises(LabError, match="not among the recorded answers"):
        generate.syneg_examples([base], generate.open_client(replay))
