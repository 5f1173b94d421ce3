"""Mining against brute-force definitions, and against the faults of other miners."""

import math
import random

import numpy as np
import pandas as pd
import pytest
from worlds import pool_of

from nbutils.core.errors import LabError
from nbutils.mining.methods import METHODS, mine

# -- every method is its definition ----------------------------------------------------


def brute_force(case, method, anchor, k):
    """Each method as NV-Retriever words it, one candidate at a time."""
    p = {"min": min, "max": max}[anchor](case["positives"].values())
    ceiling = {
        "naive": math.inf,
        "shifted": math.inf,
        "abs": 0.25,
        "margin_pos": p - 0.05,
        "perc_pos": p - 0.1 * abs(p),
    }[method]
    seen = {case["texts"][name] for name in (*case["positives"], *case["excluded"])}
    seen.add("the query")
    taken = []
    for rank, (name, score) in enumerate(case["ranking"], 1):
        text, new = case["texts"][name], case["texts"][name] not in seen
        seen.add(text)
        allowed = rank > 3 if method == "shifted" else score < ceiling
        if new and allowed:
            taken.append(name)
    return p, taken[:k]


def random_case(rng):
    """Few documents and coarse scores: ties, duplicates, negative scores, all occur."""
    words = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "the query"]
    texts = {f"d{n:02d}": rng.choice(words) for n in range(rng.randint(3, 14))}
    scores = {name: rng.randint(-8, 8) / 8 for name in texts}
    own = rng.sample(sorted(texts), rng.randint(1, 3))
    ranking = sorted(texts, key=lambda name: (-scores[name], name))
    depth = rng.randint(2, len(texts))  # a positive may lie below the table's depth
    free = sorted(set(texts) - set(own))
    return {
        "texts": texts,
        "positives": {name: scores[name] for name in own},
        "excluded": rng.sample(free, rng.randint(0, min(2, len(free)))),
        "ranking": [(name, scores[name]) for name in ranking[:depth]],
    }


def test_thousand_random_cases_equal_the_brute_force_definition():
    rng = random.Random(0)
    cases = {f"q{n:04d}": random_case(rng) for n in range(1000)}
    own = {q: c["positives"].items() for q, c in cases.items()}
    pool = pool_of(
        {q: {f"{q}/{d}": s for d, s in c["ranking"]} for q, c in cases.items()},
        {q: {f"{q}/{d}": s for d, s in pairs} for q, pairs in own.items()},
        queries=dict.fromkeys(cases, "the query"),
        texts={f"{q}/{d}": t for q, c in cases.items() for d, t in c["texts"].items()},
        excluded={q: [f"{q}/{d}" for d in c["excluded"]] for q, c in cases.items()},
    )  # fmt: skip
    settings = {"abs_threshold": 0.25, "margin": 0.05, "perc": 0.9, "shift": 3}
    settings["negatives_per_query"], compared = 3, 0
    for method in METHODS:
        for anchor in ("min", "max"):
            mined = mine(pool, mining_method=method, anchor=anchor, **settings)
            got = mined.negatives.groupby("query_id")["document_id"].agg(list)
            short = dict(mined.shortfalls[["query_id", "found"]].to_numpy())
            anchors = mined.queries.set_index("query_id")["positive_id"]
            for query, case in cases.items():
                score, want = brute_force(case, method, anchor, 3)
                assert got.get(query, []) == [f"{query}/{name}" for name in want]
                assert short.get(query, 3) == len(want)
                assert case["positives"][anchors[query].split("/")[1]] == score
                compared += len(want)
    assert compared > 8_000  # the cases were not empty


def test_every_rejected_candidate_keeps_its_rule():
    fates = [  # from the best score to the worst
        ("p", "The positive.", "positive_id"),
        ("copy", "the  POSITIVE", "equal_text_to_positive"),
        ("echo", "Ask q?", "equal_text_to_query"),
        ("own", "graded", "excluded_id"),
        ("own-copy", "Graded!", "equal_text_to_excluded"),
        ("high", "too similar", "abs"),
        ("first", "one", "kept"),
        ("second", "One", "duplicate_text"),
        ("far", "far", "kept"),
    ]
    scores = {name: 0.9 - n / 10 for n, (name, *_) in enumerate(fates)}
    texts = {name: text for name, text, _ in fates}
    pool = pool_of(
        {"q": scores}, {"q": {"p": 0.9}}, excluded={"q": ["own"]}, texts=texts
    )
    mined = mine(pool, mining_method="abs", abs_threshold=0.35)
    why = mined.explain()[["document_id", "rule"]].to_numpy().tolist()
    assert why == [[name, rule] for name, _, rule in fates]
    assert mined.negatives["document_id"].tolist() == ["first", "far"]


# -- sampling and filling --------------------------------------------------------------


def many(count=40, size=30, seed=0):
    rng = np.random.default_rng(seed)
    rows = {
        f"q{n}": {f"d{m}": float(s) for m, s in enumerate(rng.normal(size=size))}
        for n in range(count)
    }
    return rows, {query: {"d0": scores["d0"]} for query, scores in rows.items()}


@pytest.mark.parametrize("how", ["sampled", "top1_sampled"])
def test_draws_are_of_the_top_and_depend_on_neither_order_nor_blocks(how):
    rows, labelled = many()
    recipe = {"mining_method": "naive", "selection": how}
    whole = mine(pool_of(rows, labelled), seed=3, **recipe).negatives
    apart = []
    for query in reversed(rows):
        pool = pool_of({query: rows[query]}, {query: labelled[query]})
        apart.append(mine(pool, seed=3, **recipe).negatives)
    apart = pd.concat(apart[::-1], ignore_index=True)
    pd.testing.assert_frame_equal(whole, apart)
    other = mine(pool_of(rows, labelled), seed=4, **recipe).negatives
    assert (whole["document_id"] != other["document_id"]).mean() > 0.3
    for query, names in whole.groupby("query_id")["document_id"]:
        best = sorted({*rows[query]} - {"d0"}, key=rows[query].get)[:-11:-1]
        assert len(set(names)) == 4 and set(names) <= set(best)
        assert names.iloc[0] == best[0] or how == "sampled"


def test_draws_follow_the_softmax_of_scores():
    scores = {"p": 3.0, "a": 2.0, "b": 1.0, "c": 0.0}
    rows = {f"q{n}": scores for n in range(6000)}
    pool = pool_of(rows, {query: {"p": 3.0} for query in rows})
    recipe = {"mining_method": "naive", "selection": "sampled"}
    for temperature in (1.0, 0.5, 1000.0):  # the last draws uniformly
        mined = mine(pool, sampling_temperature=temperature, **recipe).negatives
        weights = np.exp(np.array([2.0, 1.0, 0.0]) / temperature)
        first = weights / weights.sum()
        drawn = mined.groupby("query_id")["document_id"].agg(list)
        share = pd.Series([names[0] for names in drawn]).value_counts(normalize=True)
        assert share[["a", "b", "c"]].to_numpy() == pytest.approx(first, abs=0.025)
        second = [names[1] for names in drawn if names[0] == "a"]
        rest = weights[1] / weights[1:].sum()  # the softmax of what is left
        assert np.mean(np.array(second) == "b") == pytest.approx(rest, abs=0.03)


def test_backfill_marks_its_rows_and_never_brings_own_texts_back():
    rows, labelled = many(count=20)
    rows["q0"] = {"d0": rows["q0"]["d0"]}  # has no candidates: all are others'
    texts = {"d1": "text of d0"}  # the positive's text under another id
    pool = pool_of(rows, labelled, texts=texts, excluded={q: ["d2"] for q in rows})
    recipe = {"mining_method": "abs", "abs_threshold": -1.5, "negatives_per_query": 6}
    bare = mine(pool, **recipe)
    assert not bare.shortfalls.empty
    assert not bare.negatives["backfilled"].any()
    filled = mine(pool, backfill="random", **recipe)
    own = filled.negatives[~filled.negatives["backfilled"]].reset_index(drop=True)
    pd.testing.assert_frame_equal(own, bare.negatives)
    assert filled.shortfalls.equals(bare.shortfalls)
    extra = filled.negatives[filled.negatives["backfilled"]]
    assert not extra["document_id"].isin(["d0", "d1", "d2"]).any()
    assert extra["score"].isna().all() and (extra["rank"] == 0).all()
    names = extra["document_id"][extra["query_id"] == "q0"]
    assert len(set(names)) == 6 and len(extra) == 6  # the others' are all candidates
    again = mine(pool, backfill="random", **recipe).negatives
    assert again.equals(filled.negatives)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mining_method": "percpos"}, "setting 'mining_method' cannot be 'percpos'"),
        ({"backfill": "lowest"}, "'backfill' cannot be 'lowest': .* 'random'"),
        ({"treshold": 0.5}, "unknown setting 'treshold'.*'abs_threshold'"),
        ({"negatives_per_query": 0}, "greater than 0"),
        ({"shift": -1}, "greater than or equal to 0"),
        ({"sampling_temperature": 0.0}, "greater than 0"),
        (
            {"selection": "sampled", "negatives_per_query": 11},
            "'sample_from' cannot be 10: it must be at least negatives_per_query, 11",
        ),
    ],
)
def test_misuse_names_the_fault(change, message):
    pool = pool_of({"q": {"p": 0.9, "x": 0.5}}, {"q": {"p": 0.9}})
    with pytest.raises(LabError, match=message):
        mine(pool, **change)
