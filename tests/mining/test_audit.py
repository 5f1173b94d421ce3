"""What was mined, audited and counted; and several teachers' choices put together."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from conftest import coverage
from worlds import world

from nbutils.core.errors import LabError
from nbutils.mining import audit, ensembles
from nbutils.mining.exclusion import prepare
from nbutils.mining.methods import mine

# -- audit -----------------------------------------------------------------------------


def audited(change=lambda table: table, planted=None, **more):
    rows = {"a": {"p": 0.9, "x": 0.5, "y": 0.4, "z": 0.3}, "b": {"q": 0.9, "p": 0.2}}
    texts = {"copy": "TEXT of p.", "echo": "Ask a?"}
    found = world(rows, {"a": {"p": 0.9}, "b": {"q": 0.9}}, texts=texts)
    negatives = mine(prepare(found), negatives_per_query=1).negatives
    data = replace(found.data, planted=planted or {})
    report = audit.check_mined(change(negatives), data, 1, **more)
    return report.set_index("check")


def test_audit_passes_clean_negatives_and_counts_what_it_knows():
    report = audited(planted={"a": ["x"]}, fail=True)
    assert report["passed"].all()
    assert report.loc["another query's positive", "count"] == 1
    assert report.loc["planted false negative", "share"] == 0.5
    assert audited(lambda t: t[:1], fail=True).loc["shortfall", "count"] == 1
    added = audited(lambda t: t.assign(backfilled=True))
    assert added.loc["shortfall", "count"] == added.loc["backfilled", "count"] == 2


def test_repeats_that_are_kept_on_purpose_are_counted_and_no_fault():
    def twice(table):
        return pd.concat([table, table.head(1)])

    assert not audited(twice).loc["duplicate", "passed"]
    report = audited(twice, repeats=True, fail=True)
    assert report.loc["duplicate", ["count", "passed"]].tolist() == [1, True]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda table: table.drop(columns="ceiling"), "no table of mined negatives"),
        (lambda table: table.assign(query_id="c"), "query 'c' is mined, not of"),
    ],
)
def test_a_table_of_another_form_or_set_is_named(change, told):
    with pytest.raises(LabError, match=told):
        audited(change)


@pytest.mark.parametrize(
    ("check", "change"),
    [
        ("own positive", lambda t: t.assign(document_id=["p", "p"])),
        ("equal to own positive", lambda t: t.assign(document_id=["copy", "p"])),
        ("equal to query", lambda t: t.assign(document_id=["echo", "p"])),
        ("duplicate", lambda t: pd.concat([t, t])),
        ("at or above ceiling", lambda t: t.assign(score=t["ceiling"])),
        ("shortfall: 2 of 2", lambda t: t[:0]),
    ],
)
def test_audit_fails_loudly(check, change):
    report = audited(change)
    assert report.index[~report["passed"]].tolist() == [check.split(":")[0]]
    with pytest.raises(LabError, match=f"fail the audit: {check}"):
        audited(change, fail=True)


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


def test_intra_sample_takes_the_best_of_each_teacher_or_the_next_best():
    mined = lists(one={"q": ["a", "b"]}, two={"q": ["a", "c"]}, three={"q": ["c", "d"]})
    kept = ensembles.intra_sample(mined, dedup=False)
    assert kept["document_id"].tolist() == ["a", "a", "c"]
    unique = ensembles.intra_sample(mined)
    assert unique["document_id"].tolist() == ["a", "c", "d"]
    assert unique["teacher"].tolist() == ["one", "two", "three"]
    texts = {"a": "same", "b": "b", "c": "Same.", "d": "d"}
    equal = ensembles.intra_sample(mined, texts=texts)
    assert equal["document_id"].tolist() == ["a", "d"]


def test_cross_sample_takes_each_query_from_one_teacher_whatever_the_order():
    queries = [f"q{n}" for n in range(200)]
    mined = lists(
        one={q: ["a", "b"] for q in queries}, two={q: ["c", "d"] for q in queries}
    )
    drawn = ensembles.cross_sample(mined, k=2, seed=1)
    assert (drawn.groupby("query_id")["teacher"].nunique() == 1).all()
    assert (drawn.groupby("query_id").size() == 2).all()
    assert drawn["query_id"].unique().tolist() == queries
    assert 0.35 < (drawn["teacher"] == "one").mean() < 0.65
    back = {name: table[::-1] for name, table in mined.items()}
    again = ensembles.cross_sample(back, k=1, seed=1)
    whose = drawn.drop_duplicates("query_id").set_index("query_id")["teacher"]
    assert (again["teacher"] == again["query_id"].map(whose)).all()
    assert len(again) == 200


def test_jaccard_of_two_teachers():
    table = ensembles.jaccard(lists(one={"q": ["a", "b"]}, two={"q": ["b", "c"]}))
    assert table["jaccard"].tolist() == [pytest.approx(1 / 3)]
