"""Judge, seeds of a set, prompt variants, near-duplicates, leaks, two generators."""

import json
import re

import numpy as np
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
from nbutils.synthesis import from_sets, generate, judge, ladder, overlap, plan, replies
from nbutils.synthesis.generate import fulfil

# -- judge


def test_verdicts_are_estimated_asked_once_and_replayed(answering, live):
    def said(prompt):
        passage = prompt.split("Passage: ")[1].split("\n")[0]
        return json.dumps({"reason": "because", "answers": "yes" in passage})

    server, settings = answering(said), live()
    texts = {"a": "yes it is {so}", "b": "no", "c": "yes"}
    pairs = [("q", "a"), ("q", "b"), ("q", "a"), ("q", "c")]
    asked = judge.judge_requests(pairs, {"q": "What?"}, texts)
    row = judge.judge_cost(asked, settings).set_index("model").loc["gpt-4o-mini"]
    assert row["requests"] == 3 and row["answer_tokens"] == 3 * judge.ANSWER_TOKENS
    assert row["prompt_tokens"] > 3 * 90
    per_token = 0.15 * row["prompt_tokens"] + 0.60 * row["answer_tokens"]
    assert row["cost"] == pytest.approx(per_token / 1e6) == 2 * row["batch_cost"]
    client = generate.open_client(settings)
    assert judge.unanswered(asked, settings, client) == asked and not server.seen
    fulfil(asked[:1], settings, client)
    assert judge.unanswered(asked, settings, client) == asked[1:]
    verdicts, rejections = fulfil(asked, settings, client)
    assert [(v.document_id, v.answers) for v in verdicts] == [
        ("a", True), ("b", False), ("c", True),
    ]  # fmt: skip
    replay = live(llm_mode="replay")
    again = fulfil(asked, replay, generate.open_client(replay))
    assert again == (verdicts, []) == (verdicts, rejections)
    assert server.attempts.total() == 3


def test_page_03b_asks_a_live_judge_and_judges_it(server, tmp_path):
    """The whole page, live: a server that is right but for one planted answer."""
    answers_of = {
        item.query: {normalise(text) for text in item.positives}
        for item in read_records(resolve("smoke", {"max_items": 0})).items
    }
    judged = []

    class Answers(dict):
        def __missing__(self, prompt):
            if not prompt.startswith("You judge"):
                return "{}"  # SyNeg, which this page does not read
            query = prompt.split("Query: ")[1].split("\n")[0]
            passage = prompt.split("Passage: ")[1].split("\n\nDoes the")[0]
            judged.append(normalise(passage) in answers_of.get(query, ()))
            right = judged[-1] and sum(judged) > 1  # the first one is missed
            return json.dumps({"reason": "so it reads", "answers": right})

    server.answers = Answers(server.answers)
    overrides = {
        "llm_mode": "live", "llm_model": "served", "llm_reasks": 0,
        "judged_queries": 100, "llm_store": str(tmp_path / "answers.sqlite"),
    }  # fmt: skip
    (outcome,) = execute.run_all(["03b"], str(tmp_path), "smoke", overrides)
    made = load(outcome.folder / f"{outcome.name}.ipynb")
    shown = [
        "".join(output.get("text", "") or output.get("data", {}).get("text/plain", ""))
        for _, cell in code_cells(made)
        for output in cell.outputs
    ]
    assert len(judged) > 40
    shown = "\n".join(shown)
    assert f"{len(judged)} verdicts, 0 refused" in shown
    said = re.search(r"naive: judge (\S+) .*planted (\S+)", shown).groups()
    share, planted = map(float, said)
    assert share < planted
    rows = shown.split("measure")[1].splitlines()[1:5]
    values = {row.split()[0]: row.split()[1:] for row in rows}
    assert float(values["precision"][0]) == 1 > float(values["recall"][0]) > 0
    assert float(values["recall"][1]) < float(values["recall"][2]) <= 1


def test_a_bad_verdict_is_rejected_and_an_unknown_id_named(answering, live):
    answering(lambda prompt: '{"reason": "x", "answers": "perhaps"}')
    asked = judge.judge_requests([("q", "a")], {"q": "?"}, {"a": "t"})
    verdicts, (fault,) = fulfil(asked, live(), generate.open_client(live()))
    assert verdicts == [] and fault.reason == "wrong_keys"
    for pair, name in ((("q", "z"), "document 'z'"), (("y", "a"), "query 'y'")):
        with pytest.raises(LabError, match=f"{name} has no text"):
            judge.judge_requests([pair], {"q": "?"}, {"a": "t"})
    with pytest.raises(LabError, match="no verdict"):
        judge.share_answering([])


def test_agreement_is_counted_against_the_truth():
    said = [(0, "a", True), (0, "b", True), (1, "a", False), (1, "b", False),
            (2, "a", True), (2, "b", False)]  # fmt: skip
    verdicts = [
        Verdict(id=f"{q}{d}", query_id=f"q{q}", document_id=d, answers=yes, reason="")
        for q, d, yes in said
    ]
    right = [("q0", "a"), ("q1", "a"), ("q2", "a"), ("q9", "a")]
    table = judge.agreement(verdicts, right, samples=200).set_index("measure")
    assert table["value"].to_dict() == pytest.approx(
        {"accuracy": 4 / 6, "precision": 2 / 3, "recall": 2 / 3, "kappa": 1 / 3}
    )
    assert (table["low"] <= table["value"]).all()
    assert (table["high"] >= table["value"]).all()
    share, low, high = judge.share_answering(verdicts)
    assert share == 0.5 and low <= share <= high


# -- seeds of a retrieval set


@pytest.fixture
def beir(tmp_path):
    folder = tmp_path / "set"
    (folder / "qrels").mkdir(parents=True)
    corpus = [{"_id": f"d{n}", "title": f"T{n}", "text": f"Text {n} about it."}
              for n in range(4)]  # fmt: skip
    queries = [{"_id": f"q{n}", "text": f"question number {n}"} for n in range(3)]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("\n".join(map(json.dumps, rows)))
    qrels = "query-id\tcorpus-id\tscore\nq0\td3\t0\nq0\td1\t1\nq0\td2\t1\nq1\td2\t2\n"
    (folder / "qrels" / "train.tsv").write_text(qrels)
    return folder


def asked_of(beir, settings, limit=0):
    return from_sets.seeded_requests(retrieval.read_set(beir), settings, limit)


def test_queries_of_a_beir_folder_are_asked_for_with_a_relevant_text(beir):
    asked = asked_of(beir, resolve())
    assert [(r.variables["query"], r.variables["positive"]) for r in asked] == [
        ("question number 0", "T1\nText 1 about it."),
        ("question number 1", "T2\nText 2 about it."),
    ]
    assert asked_of(beir, resolve(), limit=1) == asked[:1]


def written(prompt):
    """Four texts, or one where one is asked for."""
    levels = ["high", "medium", "medium", "low"]
    if "hard_negative_examples" in prompt:
        made = [{"similarity_level": name, "text": f"Written {n} as {name}."}
                for n, name in enumerate(levels, 1)]  # fmt: skip
        return json.dumps({"hard_negative_examples": made})
    places = enumerate(from_sets.LEVEL_TEXTS.values(), 1)
    place = next(n for n, text in places if text in prompt)
    return json.dumps({"text": f"Written {place} alone."})


@pytest.mark.parametrize(("calls", "count"), [("ladder", 2), ("level", 8)])
def test_a_ladder_is_written_for_each_seed_in_one_call_or_four(
    calls, count, answering, beir, live
):
    server = answering(written)
    settings = live(mgh_calls=calls, languages=["French"])
    client = generate.open_client(settings)
    examples, refused = from_sets.graded(asked_of(beir, settings), settings, client)
    assert refused == [] and server.attempts.total() == count
    assert [e.id for e in examples] == ["set/mgh-seeded/q0", "set/mgh-seeded/q1"]
    assert all(isinstance(e, GradedExample) for e in examples)
    assert [t.split()[1] for t in examples[0].negatives] == ["1", "2", "3", "4"]
    assert all("Language: French" in str(body["messages"]) for body in server.seen)


@pytest.mark.parametrize(
    ("said", "name", "reason"),
    [("no", "/N3", "not_json"),
     ('{"text": "Written 1 alone."}', "", "duplicate_text")],
)  # fmt: skip
def test_a_seed_with_a_bad_level_is_refused_whole(
    said, name, reason, answering, beir, live
):
    bad = from_sets.LEVEL_TEXTS["N3"]
    answering(lambda p: said if bad in p and "number 1" in p else written(p))
    settings = live(mgh_calls="level")
    client = generate.open_client(settings)
    examples, refused = from_sets.graded(asked_of(beir, settings), settings, client)
    assert [e.id for e in examples] == ["set/mgh-seeded/q0"]
    assert [(r.id, r.reason) for r in refused] == [(f"set/mgh-seeded/q1{name}", reason)]


@pytest.mark.parametrize("calls", ["ladder", "level"])
def test_only_what_the_model_wrote_is_judged(calls, answering, live):
    """The user's texts are long, speak of queries, and one is its own answer."""
    long = "This query as a hard negative. " * 400
    data = retrieval.RetrievalSet(
        "own", {"q0": "As an AI?", "q1": "same"},
        pd.DataFrame({"id": ["d0", "d1"], "text": [long, "same"]}),
        {"q0": ["d0"], "q1": ["d1"]},
    )  # fmt: skip
    answering(written)
    settings = live(mgh_calls=calls)
    asked = from_sets.seeded_requests(data, settings)
    made, refused = from_sets.graded(asked, settings, generate.open_client(settings))
    assert [e.positive for e in made] == [long, "same"] and refused == []


def test_the_command_tells_the_cost_then_grades_and_goes_on(answering, beir, tmp_path):
    server, out = answering(written), tmp_path / "graded.jsonl"
    base = ["grade", str(beir), "--out", str(out), "--set", "llm_model=gpt-4o-mini",
            "--set", f"llm_store={tmp_path / 's.sqlite'}"]  # fmt: skip
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
    assert "2 graded examples" in run(*live) and len(server.seen) == 2
    assert "2 graded examples" in run() and len(server.seen) == 2  # replayed
    assert [e.query for e in read_jsonl(out, GradedExample)] == [
        "question number 0", "question number 1",
    ]  # fmt: skip


# -- SyNeg's prompt without its parts


def test_the_four_prompts_differ_in_what_they_leave_out():
    for (reflection, attributes), prompt in replies.SYNEG.items():
        item = {0: ("query", "the positive")}
        first, *more = plan.syneg_requests("health", item, prompt)
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
    (made,), rejections = generate.syneg_examples([item], settings, client)
    assert (rejections, made.reasoning, made.attribute) == ([], "", "none")
    replay = resolve(overrides={"syneg_reflection": False, "families": ["health"]})
    with pytest.raises(LabError, match="not among the recorded answers"):
        generate.syneg_examples([base], replay, generate.open_client(replay))


# -- near-duplicates and leaks


@pytest.mark.parametrize("least", [0.5, 0.1])  # at 0.1 some near only a repeat
def test_near_duplicates_are_those_of_the_definition(least, monkeypatch):
    rng = np.random.default_rng(0)
    vocabulary = [f"w{n}" for n in range(6)]
    texts = [" ".join(rng.choice(vocabulary, rng.integers(1, 9))) for _ in range(120)]
    wanted = np.full(len(texts), -1)
    sets = [set(overlap.shingles(text)) for text in texts]
    for i in range(len(texts)):
        for j in range(i):
            same = len(sets[i] & sets[j]) / len(sets[i] | sets[j])
            if wanted[i] < 0 and wanted[j] < 0 and same >= least:
                wanted[i] = j
    assert (wanted >= 0).sum() > 5
    for block in (overlap.BLOCK, 16):
        monkeypatch.setattr(overlap, "BLOCK", block)
        assert overlap.near_duplicates(texts, least).tolist() == wanted.tolist()
    assert overlap.near_duplicates([], least).tolist() == []


def test_overlap_is_found_in_scripts_without_spaces():
    texts = [
        "咖啡会让人在夜里保持清醒。",
        "咖啡会让人在夜里保持清醒吗",
        "这座桥在春天开通。",
    ]
    assert overlap.near_duplicates(texts, 0.8).tolist() == [-1, 0, -1]
    found = overlap.shared_runs({"a": texts[1]}, {"e": texts[0], "f": texts[2]}, n=8)
    assert list(found["evaluation_id"]) == ["e"]


def test_graded_examples_are_freed_of_near_duplicates_by_the_setting():
    settings = resolve("smoke")
    client = generate.open_client(settings)
    tasks, _ = generate.brainstorm(settings, client)
    kept, rejections = generate.graded_examples(tasks, settings, client)
    assert rejections == []
    loose = settings.changed(near_duplicate=1e-9)
    fewer, refused = generate.graded_examples(tasks, loose, client)
    assert len(fewer) + len(refused) == len(kept) and refused
    assert {r.reason for r in refused} == {"near_duplicate"}


def test_a_shared_run_of_words_is_a_leak():
    evaluation = {
        "e1": "one two three four five six",
        "e2": "nothing alike here at all",
    }
    texts = {"a": "he said ONE, two three four five.", "b": "one two three", "c": ""}
    found = overlap.shared_runs(texts, evaluation, n=5)
    assert found.to_dict("records") == [
        {"id": "a", "evaluation_id": "e1", "run": "one two three four five"}
    ]


# -- the ladder's filter


def test_a_ladder_out_of_order_is_refused_by_name():
    examples = read_records(resolve("smoke")).graded[:4]
    scores = np.array(
        [[0.9, 0.8, 0.7, 0.6, 0.5], [0.9, 0.8, 0.85, 0.6, 0.5],
         [0.7, 0.8, 0.6, 0.5, 0.4], [0.81, 0.8, 0.7, 0.6, 0.5]]
    )  # fmt: skip
    kept, rejections = ladder.in_order(examples, scores, "monotone")
    assert kept == [examples[0], examples[3]]
    assert {r.id for r in rejections} == {examples[1].id, examples[2].id}
    assert "N2 N1" in rejections[0].detail
    kept, _ = ladder.in_order(examples, scores, "positive_first")
    assert kept == [examples[0], examples[1], examples[3]]
    with pytest.raises(LabError, match="did you mean 'monotone'"):
        ladder.in_order(examples, scores, "monoton")


# -- two generators


def test_the_more_varied_generator_is_found():
    words = [f"w{n}" for n in range(400)]
    rng = np.random.default_rng(1)
    dull = {f"p{n}": ["the same old text again"] * 3 for n in range(6)}
    varied = {name: [" ".join(rng.choice(words, 5)) for _ in range(4)] for name in dull}
    table = ladder.compare_diversity(dull, varied).set_index("measure")
    assert (table.loc[["distinct_1", "distinct_2", "distinct_3"], "low"] > 0).all()
    assert table.loc["self_overlap", "high"] < 0
    assert table.loc["self_overlap", "one"] == 1
    same = ladder.compare_diversity(varied, varied)
    assert (same["difference"] == 0).all()
    with pytest.raises(LabError, match="two prompts"):
        ladder.compare_diversity(dull, {"p0": ["x"]})


# -- languages


def test_languages_take_turns_and_the_default_stays_what_was_recorded():
    tasks = {"sts": {0: "a task"}}
    plain = list(plan.mgh_requests("health", tasks))
    mixed = list(plan.mgh_requests("health", tasks, ["English", "German"]))
    assert [r.variables["language"] for r in mixed] == ["English", "German"] * 3
    assert [r.text for r in mixed][::2] == [r.text for r in plain][::2]
    with pytest.raises(LabError, match="twice"):
        resolve(overrides={"languages": ["English", "English"]})
