"""Local mteb tasks, BM25 beside them, and paired statistics."""

import numpy as np
import pandas as pd
import pytest
from sentence_transformers import SentenceTransformer

from nbutils.core import retrieval, statistics
from nbutils.core.errors import LabError
from nbutils.core.records import read_records
from nbutils.core.settings import resolve
from nbutils.encoder.student import build_student, load_encoder, save_student
from nbutils.evaluation.runs import SEEDS, other_settings
from nbutils.evaluation.scores import (
    BM25Search,
    CachedEncoder,
    _meta,
    beats_n1,
    evaluate,
    ndcg_per_query,
)
from nbutils.evaluation.tasks import local_tasks, named_tasks


@pytest.fixture(scope="module")
def settings():
    return resolve("smoke", {"max_items": 0, "families": ["health", "industry"]})


@pytest.fixture(scope="module")
def records(settings):
    return read_records(settings)


def test_the_sets_hold_all_true_positives_and_nothing_of_training(records):
    for name in retrieval.HELD_OUT:
        data = retrieval.local_set(name, records.graded, records.items)
        trained = {r.query for r in [*records.graded, *records.items]
                   if r.split == "train"}  # fmt: skip
        assert not trained & set(data.queries.values())
        for query, judged in data.qrels.items():
            assert len(judged) == (3 if "/seed/" in query else 1)
    family = retrieval.local_set("held-out-family", records.graded, records.items)
    assert {query.split("/")[0] for query in family.queries} == {"industry"}
    assert sum("/seed/" in query for query in family.queries) == 48


def test_document_ids_do_not_tell_the_positive():
    ids = [retrieval.blind(f"a/mgh/sts/0/{n}/{p}") for n in range(200) for p in "PN"]
    first = [ids[i] > ids[i + 1] for i in range(0, 400, 2)]
    assert 70 < sum(first) < 130  # ties would be won by either, about equally


def test_per_query_scores_are_mtebs_own(records, settings):
    data = retrieval.local_set("held-out-tasks", records.graded, records.items)
    tasks = local_tasks(data)
    model = load_encoder(settings)
    cached = CachedEncoder(model, settings, "tiny")
    table, runs = evaluate(cached, tasks)
    scores = table.set_index("type")["score"]
    assert set(scores.index) == {"Retrieval", "Reranking", "STS", "PairClassification"}
    ndcg = ndcg_per_query(runs["LabHeldOutTasksRetrieval"], data.qrels)
    assert ndcg.mean() == pytest.approx(scores["Retrieval"], abs=1e-5)
    beats = beats_n1(runs["LabHeldOutTasksReranking"], data)
    assert set(beats.unique()) <= {0.0, 1.0} and len(beats) == len(data.ladder)


def test_mteb_takes_a_saved_student_as_the_sentence_transformer_it_is(
    records, settings, tmp_path
):
    """Nothing of ours is between them: mteb wraps what the folder opens to."""
    data = retrieval.local_set("held-out-tasks", records.graded, records.items)
    student = build_student(settings)
    folder = save_student(student, tmp_path / "student")
    opened = SentenceTransformer(str(folder), trust_remote_code=True, device="cpu")
    table, runs = evaluate(opened, local_tasks(data))
    scores = table.set_index("type")["score"]
    assert set(scores.index) == {"Retrieval", "Reranking", "STS", "PairClassification"}
    found = runs["LabHeldOutTasksRetrieval"]
    vectors = opened.encode([*data.queries.values(), *data.documents.values()])
    queries, documents = np.split(vectors, [len(data.queries)])
    cosine = queries @ documents.T  # the student's vectors are of length one
    places = {name: place for place, name in enumerate(data.documents)}
    for row, query in zip(cosine, data.queries, strict=True):
        own = [row[places[name]] for name in found[query]]
        assert np.allclose(list(found[query].values()), own, atol=1e-3)


class Oracle:
    """Knows every true positive: what a perfect model scores."""

    mteb_model_meta = _meta("oracle")

    def __init__(self, data, sign):
        self.data, self.sign = data, sign

    def index(self, corpus, **kwargs):
        self.ids = list(corpus["id"])

    def search(self, queries, *, top_k, top_ranked=None, **kwargs):
        found = {}
        for query in queries["id"]:
            pool = top_ranked[query] if top_ranked else self.ids
            true = self.data.qrels[query]
            found[query] = {d: self.sign * float(d in true) for d in pool}
        return found


@pytest.mark.parametrize(("sign", "ndcg", "share"), [(1, 1.0, 1.0), (-1, 0.0, 0.0)])
def test_a_perfect_and_a_perverse_model(records, sign, ndcg, share):
    data = retrieval.local_set("held-out-family", records.graded, records.items)
    tasks = local_tasks(data)[:2]
    table, runs = evaluate(Oracle(data, sign), tasks)
    assert table["score"][0] == pytest.approx(ndcg)
    reranking = runs["LabHeldOutFamilyReranking"]
    assert beats_n1(reranking, data).mean() == share


def test_bm25_finds_a_shared_word(records):
    data = retrieval.local_set("held-out-family", records.graded, records.items)
    table, _ = evaluate(BM25Search(), local_tasks(data)[:2])
    assert (table["score"] > 0.1).all() and (table["score"] < 0.9).all()


def test_an_empty_split_and_an_unknown_task_are_errors(records):
    with pytest.raises(LabError, match="no recorded example"):
        retrieval.local_set("held-out-tasks", [], [])
    with pytest.raises(LabError, match="did you mean 'SciFact'"):
        named_tasks(["SciFakt"])


def test_paired_difference_covers_and_says_so():
    rng = np.random.default_rng(0)
    before = rng.random(300)
    better = statistics.paired_difference(before, before + 0.05)
    assert better["low"] == pytest.approx(0.05) and better["distinguishable"] == 1
    noise = statistics.paired_difference(before, before + rng.normal(0, 0.3, 300))
    assert noise["low"] < 0 < noise["high"] and noise["distinguishable"] == 0
    assert "not distinguishable here" in statistics.in_words(noise)
    with pytest.raises(LabError, match="finite"):
        statistics.paired_difference([0.0], [np.nan])


def coverage(draw_gain, units=None, trials=200) -> float:
    """Share of intervals that hold the true mean, zero."""
    held = 0
    for trial in range(trials):
        gain = draw_gain(np.random.default_rng(trial))
        found = statistics.paired_difference(
            np.zeros_like(gain), gain, units=units, samples=300
        )
        held += found["low"] <= 0 <= found["high"]
    return held / trials


def test_intervals_cover_over_queries_over_tasks_and_over_seeds():
    assert 0.89 <= coverage(lambda rng: rng.normal(size=80)) <= 0.99
    tasks = np.repeat(np.arange(30), 6)

    def alike(rng):
        return rng.normal(size=30)[tasks] + rng.normal(size=180)

    assert coverage(alike) < 0.8  # queries of a task are no independent units
    assert 0.88 <= coverage(alike, units=tasks) <= 0.99

    def seeded(rng):
        return rng.normal(0, 0.2, (4, 1)) + rng.normal(0, 0.05, (4, 100))

    assert coverage(seeded) >= 0.9


def test_units_of_recorded_queries():
    assert statistics.unit_of("health/mgh/sts/2/5") == "health/mgh/sts/2"
    assert statistics.unit_of("industry/seed/07") == "industry/seed/07"


def test_named_tasks_are_english_only():
    (task,) = named_tasks(["STS17"])
    assert task.hf_subsets == ["en-en"]


def test_shipped_seeds_are_complete_and_match_the_held_out_queries():
    table = pd.read_csv(SEEDS)
    records = read_records(resolve())
    assert table["seed"].nunique() == 5
    assert other_settings(resolve()) == []
    for name in retrieval.HELD_OUT:
        data = retrieval.local_set(name, records.graded, records.items)
        for _, part in table[table["split"] == name].groupby("seed"):
            assert set(part["query_id"]) == set(data.queries)
    columns = [c for c in table if c.startswith("ndcg")]
    assert table[columns].notna().all().all()
    assert table[columns].to_numpy().min() >= 0 and table[columns].to_numpy().max() <= 1
