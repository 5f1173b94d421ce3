"""What was mined, audited and counted; and several teachers' choices put together."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import coverage
from worlds import world

from nbutils.core.errors import LabError
from nbutils.core.retrieval import RetrievalSet
from nbutils.mining import audit, ensembles
from nbutils.mining.exclusion import prepare
from nbutils.mining.methods import mine

# -- audit -----------------------------------------------------------------------------


def audited(change=None, planted=None, **more):
    rows = {"a": {"p": 0.9, "x": 0.5, "y": 0.4, "z": 0.3}, "b": {"q": 0.9, "p": 0.2}}
    found = world(rows, {"a": {"p": 0.9}, "b": {"q": 0.9}})
    negatives = mine(prepare(found), negatives_per_query=1).negatives
    negatives = negatives if change is None else change(negatives)
    data = replace(found.data, planted=planted or {})
    report = audit.check_mined(negatives, data, 1, **more)
    return report.set_index("check")


def test_audit_passes_clean_negatives_and_counts_what_it_knows():
    report = audited(planted={"a": ["x"]}, fail=True)
    assert report["passed"].all()
    assert report.loc["another query's positive", "count"] == 1
    assert report.loc["planted false negative", "share"] == 0.5
    assert audited(lambda t: t[:1], fail=True).loc["shortfall", "count"] == 1
    added = audited(lambda t: t.assign(backfilled=True))
    assert added.loc["shortfall", "count"] == added.loc["backfilled", "count"] == 2


@pytest.mark.parametrize(
    ("check", "change"),
    [
        ("own positive", lambda t: t.assign(document_id=["p", "p"])),
        ("duplicate", lambda t: pd.concat([t, t])),
        ("at or above ceiling", lambda t: t.assign(score=t["ceiling"])),
        ("shortfall: 2 of 2", lambda t: t[:0]),
    ],
)
def test_audit_fails_loudly(check, change):
    assert not audited(change).loc[check.split(":")[0], "passed"]
    with pytest.raises(LabError, match=f"fail the audit: .*{check}"):
        audited(change, fail=True)


def test_audit_finds_equal_texts():
    texts = {"p": "The positive", "copy": "the positive.", "echo": "ask a"}
    names = ["query_id", "positive_id", "document_id", "score", "ceiling"]
    negatives = pd.DataFrame(
        [("a", "p", "copy", 0.1, 0.5), ("a", "p", "echo", 0.1, 0.5)], columns=names
    ).assign(backfilled=False)
    corpus = pd.DataFrame({"id": list(texts), "text": list(texts.values())})
    data = RetrievalSet("toy", {"a": "Ask a?"}, corpus, {"a": ["p"]})
    report = audit.check_mined(negatives, data, 2).set_index("check")
    assert report.loc["equal to own positive", "count"] == 1
    assert report.loc["equal to query", "count"] == 1


def test_false_negative_rate_and_its_interval():
    negatives = pd.DataFrame(
        {
            "query_id": np.repeat([f"q{n}" for n in range(100)], 4),
            "document_id": ["planted", "a", "b", "c"] * 100,
        }
    )
    planted = {f"q{n}": ["planted"] for n in range(0, 100, 2)}
    counts = audit.false_negatives(negatives, planted)
    assert counts.to_numpy().sum(axis=0).tolist() == [50, 200]  # only queries with any
    half = {query: ["planted" if n % 2 else "no"] for n, query in enumerate(planted)}
    fewer = audit.false_negatives(negatives, half)
    assert audit.rate(fewer)[0] == 0.125
    assert audit.reduction(fewer, counts)[0] == 0.5


def test_intervals_of_false_negatives_cover_the_truth_as_often_as_they_say():
    def counts(draw, share):  # four negatives a query, and queries differ
        mined = {"planted": draw.binomial(4, share), "negatives": 4}
        return pd.DataFrame(mined)

    def rate(draw):
        return audit.rate(counts(draw, draw.beta(0.5, 1.5, 100)), samples=300)

    def reduction(draw):
        base = counts(draw, draw.beta(1, 1, 100))
        fewer = base.assign(planted=draw.binomial(base["planted"], 0.5))
        return audit.reduction(fewer, base, samples=300)

    assert 0.89 <= coverage(rate, 0.25) <= 0.99
    assert 0.89 <= coverage(reduction, 0.5) <= 0.99


# -- ensembles -------------------------------------------------------------------------


def lists(**teachers):
    return {
        name: pd.DataFrame(
            [(q, d, name) for q, documents in own.items() for d in documents],
            columns=["query_id", "document_id", "teacher"],
        )
        for name, own in teachers.items()
    }


def test_intra_sample_with_and_without_dedup():
    mined = lists(one={"q": ["a", "b"]}, two={"q": ["a", "c"]}, three={"q": ["c", "d"]})
    kept = ensembles.intra_sample(mined, dedup=False)
    assert kept["document_id"].tolist() == ["a", "a", "c"]
    unique = ensembles.intra_sample(mined, dedup=True)
    assert unique["document_id"].tolist() == ["a", "c", "d"]
    assert unique["teacher"].tolist() == ["one", "two", "three"]
    texts = {"a": "same", "b": "b", "c": "Same.", "d": "d"}
    assert ensembles.intra_sample(
        lists(one={"q": ["a"]}, two={"q": ["c", "d"]}), texts=texts
    )["document_id"].tolist() == ["a", "d"]


def test_cross_sample_takes_each_query_from_one_teacher_whatever_the_order():
    queries = [f"q{n}" for n in range(200)]
    mined = lists(
        one={q: ["a", "b"] for q in queries}, two={q: ["c", "d"] for q in queries}
    )
    drawn = ensembles.cross_sample(mined, k=2, seed=1)
    assert (drawn.groupby("query_id")["teacher"].nunique() == 1).all()
    assert (drawn.groupby("query_id").size() == 2).all()
    assert 0.35 < (drawn["teacher"] == "one").mean() < 0.65
    back = {name: table[::-1] for name, table in mined.items()}
    again = ensembles.cross_sample(back, k=2, seed=1)
    whose = drawn.drop_duplicates("query_id").set_index("query_id")["teacher"]
    assert (again["teacher"] == again["query_id"].map(whose)).all()
    assert len(ensembles.cross_sample(mined, seed=1, k=1)) == 200


def test_jaccard_of_two_teachers():
    table = ensembles.jaccard(lists(one={"q": ["a", "b"]}, two={"q": ["b", "c"]}))
    assert table["jaccard"].tolist() == [pytest.approx(1 / 3)]
