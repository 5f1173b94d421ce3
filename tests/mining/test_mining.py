"""Mining against brute-force definitions, and against the faults of other miners."""

import ast
import json
import math
import random
import tempfile
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from conftest import coverage

from nbutils.core.errors import LabError
from nbutils.core.text import normalise
from nbutils.mining import audit, ensembles, methods, recipe
from nbutils.mining.candidates import Candidates
from nbutils.mining.exclusion import prepare
from nbutils.mining.rescoring import rescore


def world(rows, labelled, queries=None, texts=None):
    """Candidates, queries and corpus of {query: {document: score}} and its positives.

    `rows` are the scores of all candidates; `labelled` the scores of the positives.
    """
    table = []
    for query, scores in rows.items():
        ordered = sorted(scores.items(), key=lambda pair: -pair[1])
        table += [(query, name, s, n) for n, (name, s) in enumerate(ordered, 1)]
    names = ["query_id", "document_id", "score", "rank"]
    positives = [(q, d, s, 1) for q, own in labelled.items() for d, s in own.items()]
    documents = {d for scores in (*rows.values(), *labelled.values()) for d in scores}
    documents |= set(texts or {})
    texts = {name: f"text of {name}" for name in sorted(documents)} | (texts or {})
    corpus = pd.DataFrame({"id": list(texts), "text": list(texts.values())})
    found = Candidates(
        pd.DataFrame(table, columns=names),
        pd.DataFrame(positives, columns=names),
        "toy",
        "0",
    )
    return found, queries or {query: f"ask {query}" for query in rows}, corpus


def pool_of(rows, labelled, *, exclude=None, near_duplicate=None, **more):
    found, queries, corpus = world(rows, labelled, **more)
    return prepare(
        found, queries, corpus, exclude=exclude, near_duplicate=near_duplicate
    )


# -- every method is its definition ----------------------------------------------------


def brute_force(case, method, anchor, k):
    """Each method as NV-Retriever words it, one candidate at a time."""
    p = {"min": min, "max": max, "mean": lambda s: sum(s) / len(s)}[anchor](
        list(case["positives"].values())
    )
    ceiling = {
        "naive": math.inf,
        "shifted": math.inf,
        "abs": 0.3,
        "margin_pos": p - 0.05,
        "perc_pos": p - 0.1 * abs(p),
    }[method]
    seen = {case["texts"][name] for name in (*case["positives"], *case["excluded"])}
    seen.add(case["query"])
    taken = []
    for rank, (name, score) in enumerate(case["ranking"], 1):
        text, new = case["texts"][name], case["texts"][name] not in seen
        seen.add(text)
        allowed = rank > 3 if method == "shifted" else score < ceiling
        if new and allowed:
            taken.append(name)
    return taken[:k]


def random_case(rng):
    """Few documents and coarse scores: ties, duplicates, negative scores, all occur."""
    words = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "the query"]
    texts = {f"d{n}": rng.choice(words) for n in range(rng.randint(3, 14))}
    scores = {name: rng.randint(-10, 10) / 10 for name in texts}
    own = rng.sample(sorted(texts), rng.randint(1, 3))
    ranking = sorted(texts, key=lambda name: (-scores[name], name))
    depth = rng.randint(2, len(texts))  # a positive may lie below the table's depth
    free = sorted(set(texts) - set(own))
    return {
        "texts": texts,
        "query": "the query",
        "positives": {name: scores[name] for name in own},
        "excluded": rng.sample(free, rng.randint(0, min(2, len(free)))),
        "ranking": [(name, scores[name]) for name in ranking[:depth]],
    }


def test_thousand_random_cases_equal_the_brute_force_definition():
    rng = random.Random(0)
    cases = {f"q{n:04d}": random_case(rng) for n in range(1000)}
    rows, labelled, texts, exclude = {}, {}, {}, {}
    table = []
    for query, case in cases.items():
        texts |= {f"{query}/{name}": text for name, text in case["texts"].items()}
        labelled[query] = {f"{query}/{d}": s for d, s in case["positives"].items()}
        exclude[query] = [f"{query}/{name}" for name in case["excluded"]]
        rows[query] = {}
        table += [
            (query, f"{query}/{d}", s, n) for n, (d, s) in enumerate(case["ranking"], 1)
        ]
    found, queries, corpus = world(
        rows, labelled, dict.fromkeys(cases, "the query"), texts
    )
    table = pd.DataFrame(table, columns=found.table.columns)
    found = replace(found, table=table.sample(frac=1, random_state=1))
    pool = prepare(found, queries, corpus, exclude=exclude)
    settings = {"threshold": 0.3, "margin": 0.05, "perc": 0.9, "shift": 3}
    compared = 0
    for method in recipe.METHODS:
        for anchor in ("min", "max", "mean"):
            mined = methods.mine(pool, method=method, anchor=anchor, k=3, **settings)
            got = mined.negatives.groupby("query_id")["document_id"].agg(list)
            short = dict(mined.shortfalls[["query_id", "found"]].to_numpy())
            for query, case in cases.items():
                want = brute_force(case, method, anchor, 3)
                assert got.get(query, []) == [f"{query}/{name}" for name in want]
                assert short.get(query, 3) == len(want)
                compared += len(want)
    assert compared > 10_000  # the cases were not empty


def test_the_sign_of_a_ceiling_is_safe():
    scores = np.array([0.8, 0.0, -0.4])
    ceilings = methods.ceiling("perc_pos", scores, perc=0.95)
    assert ceilings == pytest.approx([0.76, 0.0, -0.42])
    assert (methods.ceiling("perc_pos", scores, perc=0.95) <= scores).all()
    pool = pool_of({"q": {"p": -0.4, "near": -0.41, "far": -0.5}}, {"q": {"p": -0.4}})
    mined = methods.mine(pool, method="perc_pos", perc=0.95, k=2)
    assert mined.negatives["document_id"].tolist() == ["far"]


def test_nobody_starves_while_the_table_holds_candidates():
    crowd = {f"above{n}": 0.9 - n / 1000 for n in range(60)}
    free = {f"below{n}": 0.4 - n / 1000 for n in range(4)}
    pool = pool_of({"q": {"p": 0.8, **crowd, **free}}, {"q": {"p": 0.8}})
    mined = methods.mine(pool, method="perc_pos", perc=0.6, k=4)
    assert mined.negatives["document_id"].tolist() == list(free)
    assert mined.shortfalls.empty


def test_several_positives_each_anchor_their_own_negatives():
    pool = pool_of(
        {"q": {"p1": 0.9, "x": 0.85, "p2": 0.5, "y": 0.45, "z": 0.1}},
        {"q": {"p1": 0.9, "p2": 0.5}},
    )
    mined = methods.mine(pool, method="perc_pos", perc=0.95, anchor="each", k=2)
    got = mined.negatives.groupby("positive_id")["document_id"].agg(list)
    assert got["p1"] == ["x", "y"]  # 0.85 is below 0.855
    assert got["p2"] == ["y", "z"]  # 0.45 is below 0.475
    mean = methods.mine(pool, method="margin_pos", margin=0, anchor="mean", k=1)
    assert mean.negatives["positive_score"].tolist() == [pytest.approx(0.7)]
    assert mean.negatives["positive_id"].isna().all()


# -- what is excluded, and why ---------------------------------------------------------


def test_every_rejected_candidate_keeps_its_rule():
    texts = {
        "p": "The positive.",
        "copy": "the  POSITIVE",
        "echo": "Ask q?",
        "own": "graded",
        "own-copy": "Graded!",
        "first": "one",
        "second": "One",
        "high": "too similar",
        "far": "far",
    }
    names = ["p", "copy", "echo", "own", "own-copy", "high", "first", "second", "far"]
    scores = {name: 0.9 - n / 10 for n, name in enumerate(names)}
    pool = pool_of(
        {"q": scores}, {"q": {"p": 0.9}}, exclude={"q": ["own"]}, texts=texts
    )
    mined = methods.mine(pool, method="abs", threshold=0.35, k=4)
    why = dict(mined.explain("q")[["document_id", "rule"]].to_numpy())
    assert why == {
        "p": "positive_id",
        "copy": "equal_text_to_positive",
        "echo": "equal_text_to_query",
        "own": "excluded_id",
        "own-copy": "equal_text_to_excluded",
        "high": "abs",
        "first": "kept",
        "second": "duplicate_text",
        "far": "kept",
    }
    assert mined.negatives["document_id"].tolist() == ["first", "far"]
    assert mined.explain().equals(mined.explain("q"))


def test_equal_text_is_excluded_although_the_positive_is_not_in_the_table():
    found, queries, corpus = world(
        {"q": {"copy": 0.5, "other": 0.4}},
        {"q": {"p": 0.6}},
        texts={"p": "Same text.", "copy": "same text"},
    )
    mined = methods.mine(prepare(found, queries, corpus), method="naive", k=2)
    assert mined.negatives["document_id"].tolist() == ["other"]
    assert mined.negatives["positive_score"].tolist() == [0.6]


def test_near_duplicates_are_excluded_only_when_asked_for():
    texts = {"p": "one two three four five", "near": "one two three four six"}
    rows = {"q": {"p": 0.9, "near": 0.8, "far": 0.1}}
    plain = methods.mine(pool_of(rows, {"q": {"p": 0.9}}, texts=texts), method="naive")
    assert plain.negatives["document_id"].tolist() == ["near", "far"]
    pool = pool_of(rows, {"q": {"p": 0.9}}, texts=texts, near_duplicate=0.6)
    mined = methods.mine(pool, method="naive")
    assert mined.negatives["document_id"].tolist() == ["far"]
    assert "near_duplicate" in mined.explain()["rule"].tolist()


def test_a_query_without_any_candidate_is_a_shortfall():
    pool = pool_of({"a": {"p": 0.5}, "b": {"p": 0.2, "n": 0.1}},
                   {"a": {"p": 0.5}, "b": {"p": 0.2}})  # fmt: skip
    mined = methods.mine(pool, method="naive", k=1)
    assert mined.negatives["query_id"].tolist() == ["b"]
    assert mined.shortfalls["query_id"].tolist() == ["a"]
    assert mined.shortfalls["found"].tolist() == [0]


# -- sampling --------------------------------------------------------------------------


def many(count=40, size=30, seed=0):
    rng = np.random.default_rng(seed)
    rows = {
        f"q{n}": {f"d{m}": float(s) for m, s in enumerate(rng.normal(size=size))}
        for n in range(count)
    }
    return rows, {query: {"d0": scores["d0"]} for query, scores in rows.items()}


@pytest.mark.parametrize("selection", ["sampled", "top1_sampled"])
def test_sampling_does_not_depend_on_order_or_blocks(selection):
    rows, labelled = many()
    settings = {"method": "naive", "selection": selection, "seed": 3}
    whole = methods.mine(pool_of(rows, labelled), **settings).negatives
    apart = []
    for query in reversed(rows):
        pool = pool_of({query: rows[query]}, {query: labelled[query]})
        apart.append(methods.mine(pool, **settings).negatives)
    apart = pd.concat(apart[::-1], ignore_index=True)
    pd.testing.assert_frame_equal(whole, apart)
    other = methods.mine(pool_of(rows, labelled), **{**settings, "seed": 4}).negatives
    assert (whole["document_id"] != other["document_id"]).mean() > 0.3


def test_sampled_negatives_come_from_the_top_and_the_first_can_be_kept():
    pool = pool_of(*many())
    top = methods.mine(pool, method="naive", k=10).negatives
    best = top.groupby("query_id")["document_id"].agg(list)
    for selection in ("sampled", "top1_sampled"):
        mined = methods.mine(pool, method="naive", selection=selection, k=4).negatives
        for query, names in mined.groupby("query_id")["document_id"]:
            assert len(set(names)) == 4
            assert set(names) <= set(best[query])
            if selection == "top1_sampled":
                assert names.iloc[0] == best[query][0]


def test_draws_follow_the_softmax_of_scores():
    scores = {"p": 3.0, "a": 2.0, "b": 1.0, "c": 0.0}
    rows = {f"q{n}": scores for n in range(6000)}
    pool = pool_of(rows, {query: {"p": 3.0} for query in rows})
    for temperature in (1.0, 0.5):
        mined = methods.mine(
            pool, method="naive", selection="sampled", k=2, temperature=temperature
        ).negatives
        weights = np.exp(np.array([2.0, 1.0, 0.0]) / temperature)
        first = weights / weights.sum()
        drawn = mined.groupby("query_id")["document_id"].agg(list)
        share = pd.Series([names[0] for names in drawn]).value_counts(normalize=True)
        assert share[["a", "b", "c"]].to_numpy() == pytest.approx(first, abs=0.025)
        second = [names[1] for names in drawn if names[0] == "a"]
        rest = weights[1] / weights[1:].sum()  # the softmax of what is left
        assert np.mean(np.array(second) == "b") == pytest.approx(rest, abs=0.03)


# -- shortfall and backfill ------------------------------------------------------------


def test_backfill_marks_its_rows_and_never_brings_own_texts_back():
    rows, labelled = many(count=20)
    texts = {"d1": "text of d0"}  # the positive's text under another id
    found, queries, corpus = world(rows, labelled, texts=texts)
    pool = prepare(found, queries, corpus, exclude={q: ["d2"] for q in rows})
    bare = methods.mine(pool, method="abs", threshold=-1.5, k=6)
    assert not bare.shortfalls.empty
    assert not bare.negatives["backfilled"].any()
    for policy in ("lowest", "random"):
        filled = methods.mine(pool, method="abs", threshold=-1.5, k=6, backfill=policy)
        counts = filled.negatives.groupby("query_id").size()
        if policy == "lowest":
            assert (counts == 6).all() and len(counts) == 20
        assert not filled.negatives["document_id"].isin(["d0", "d1", "d2"]).any()
        own = filled.negatives[~filled.negatives["backfilled"]].reset_index(drop=True)
        pd.testing.assert_frame_equal(own, bare.negatives)
        assert filled.shortfalls.equals(bare.shortfalls)
    lowest = methods.mine(pool, method="abs", threshold=-9.0, k=1, backfill="lowest")
    for query, name in lowest.negatives[["query_id", "document_id"]].to_numpy():
        free = {d: s for d, s in rows[query].items() if d not in ("d0", "d1", "d2")}
        assert name == min(free, key=free.get)


def test_random_backfill_draws_documents_of_other_queries():
    rows = {"a": {"p": 0.5, "x": 0.45}, "b": {f"n{i}": 0.1 for i in range(9)}}
    pool = pool_of(rows, {"a": {"p": 0.5}, "b": {"p": 0.5}})
    settings = {"method": "perc_pos", "perc": 0.5, "k": 2, "backfill": "random"}
    mined = methods.mine(pool, **settings).negatives
    extra = mined[mined["query_id"] == "a"]
    assert extra["backfilled"].all() and len(set(extra["document_id"])) == 2
    assert extra["document_id"].str.startswith("n").all()
    assert extra["score"].isna().all() and (extra["rank"] == 0).all()
    assert methods.mine(pool, **settings).negatives.equals(mined)


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
    drawn = ensembles.cross_sample(mined, seed=1)
    assert (drawn.groupby("query_id")["teacher"].nunique() == 1).all()
    assert (drawn.groupby("query_id").size() == 2).all()
    assert 0.35 < (drawn["teacher"] == "one").mean() < 0.65
    back = {name: table[::-1] for name, table in mined.items()}
    again = ensembles.cross_sample(back, seed=1)
    whose = drawn.drop_duplicates("query_id").set_index("query_id")["teacher"]
    assert (again["teacher"] == again["query_id"].map(whose)).all()
    assert len(ensembles.cross_sample(mined, seed=1, k=1)) == 200


def test_jaccard_of_two_teachers():
    table = ensembles.jaccard(lists(one={"q": ["a", "b"]}, two={"q": ["b", "c"]}))
    assert table["jaccard"].tolist() == [pytest.approx(1 / 3)]
    with pytest.raises(LabError, match="needs two teachers"):
        ensembles.jaccard(lists(one={"q": ["a"]}))
    with pytest.raises(LabError, match="at least one teacher"):
        ensembles.cross_sample({})


# -- audit -----------------------------------------------------------------------------


def audited(change=None, **more):
    rows = {"a": {"p": 0.9, "x": 0.5, "y": 0.4, "z": 0.3}, "b": {"q": 0.9, "p": 0.2}}
    found, queries, corpus = world(rows, {"a": {"p": 0.9}, "b": {"q": 0.9}})
    pool = prepare(found, queries, corpus)
    negatives = methods.mine(pool, method="perc_pos", k=1).negatives
    negatives = negatives if change is None else change(negatives)
    texts = dict(corpus[["id", "text"]].to_numpy())
    return audit.check_mined(
        negatives, queries, texts, {"a": ["p"], "b": ["q"]}, wanted=1, **more
    ).set_index("check")


def test_audit_passes_clean_negatives_and_counts_what_it_knows():
    report = audited(planted={"a": ["x"]}, fail=True)
    assert report["passed"].all()
    assert report.loc["another query's positive", "count"] == 1
    assert report.loc["planted false negative", "share"] == 0.5


@pytest.mark.parametrize(
    ("check", "change"),
    [
        ("own positive", lambda t: t.assign(document_id=["p", "p"])),
        ("duplicate", lambda t: pd.concat([t, t])),
        ("at or above ceiling", lambda t: t.assign(score=t["ceiling"])),
        ("shortfall", lambda t: t[:1]),
        ("shortfall", lambda t: t.assign(backfilled=True)),
    ],
)
def test_audit_fails_loudly(check, change):
    assert not audited(change).loc[check, "passed"]
    with pytest.raises(LabError, match=f"fail the audit: .*{check}"):
        audited(change, fail=True)


def test_audit_finds_equal_texts_and_takes_limits():
    texts = {"p": "The positive", "copy": "the positive.", "echo": "ask a"}
    names = ["query_id", "positive_id", "document_id", "score", "ceiling"]
    negatives = pd.DataFrame(
        [("a", "p", "copy", 0.1, 0.5), ("a", "p", "echo", 0.1, 0.5)], columns=names
    ).assign(backfilled=False)
    report = audit.check_mined(
        negatives, {"a": "Ask a?"}, texts, {"a": ["p"]}, wanted=2
    )
    report = report.set_index("check")
    assert report.loc["equal to own positive", "count"] == 1
    assert report.loc["equal to query", "count"] == 1
    with pytest.raises(LabError, match="planted false negative"):
        audited(planted={"a": ["x"]}, limits={"planted false negative": 0.2}, fail=True)
    with pytest.raises(LabError, match="no check is called"):
        audited(limits={"duplicates": 0.2})


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


# -- a cross-encoder's opinion ---------------------------------------------------------


class Lengths:
    """Scores a pair by the length of its document: an order of its own."""

    def predict(self, pairs, **_):
        return [len(document) / 10 for _, document in pairs]


def test_a_cross_encoder_reorders_candidates_and_moves_the_ceiling():
    texts = {"p": "four", "a": "seventeen letters", "b": "xx", "c": "yyy"}
    rows = {"q": {"a": 0.9, "p": 0.8, "b": 0.7, "c": 0.6}}
    found, queries, corpus = world(rows, {"q": {"p": 0.8}}, texts=texts)
    again = rescore(found, Lengths(), queries, texts, name="lengths")
    assert again.table["document_id"].tolist() == ["a", "p", "c", "b"]
    assert again.table["rank"].tolist() == [1, 2, 3, 4]
    assert again.positives[["score", "rank"]].to_numpy().tolist() == [
        [pytest.approx(0.4), 2]
    ]
    assert again.fingerprint != found.fingerprint
    mined = methods.mine(prepare(again, queries, corpus), method="perc_pos", k=3)
    assert mined.negatives["document_id"].tolist() == ["c", "b"]
    assert set(mined.negatives["teacher"]) == {"toy + lengths"}
    broken = SimpleNamespace(predict=lambda pairs, **_: np.zeros((len(pairs), 2)))
    with pytest.raises(LabError, match="one finite number a pair"):
        rescore(found, broken, queries, texts)


def test_a_real_cross_encoder_is_asked_in_its_own_way():
    from sentence_transformers import CrossEncoder
    from transformers import (
        BertConfig,
        BertForSequenceClassification,
        BertTokenizerFast,
    )

    found, queries, corpus = world(
        {"q": {"p": 0.9, "x": 0.5, "y": 0.4}}, {"q": {"p": 0.9}}
    )
    texts = dict(corpus[["id", "text"]].to_numpy())
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "ask", "q", "text", "of", "p", "x"]
    config = BertConfig(
        vocab_size=10, hidden_size=8, num_hidden_layers=1, num_attention_heads=1,
        intermediate_size=8, num_labels=1,
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        BertForSequenceClassification(config).save_pretrained(folder)
        Path(folder, "vocab.txt").write_text("\n".join(words))
        BertTokenizerFast(str(Path(folder, "vocab.txt"))).save_pretrained(folder)
        model = CrossEncoder(folder, device="cpu")
    again = rescore(found, model, queries, texts)
    pairs = [("ask q", texts[name]) for name in again.table["document_id"]]
    assert again.table["score"].to_numpy() == pytest.approx(
        model.predict(pairs, show_progress_bar=False), abs=1e-5
    )
    assert again.table["score"].is_monotonic_decreasing


# -- misuse ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "percpos"}, "unknown method 'percpos'; did you mean 'perc_pos'"),
        ({"selection": "topk"}, "did you mean 'top_k'"),
        ({"anchor": "median"}, "unknown anchor 'median'"),
        ({"backfill": "randomly"}, "did you mean 'random'"),
        ({"treshold": 0.5}, "did you mean 'threshold'"),
        ({"k": 0}, "at least 1"),
        ({"shift": -1}, "0 or more"),
        ({"temperature": 0.0}, "above 0"),
        ({"selection": "sampled", "k": 11}, "at least k, 11"),
    ],
)
def test_misuse_names_the_fault_and_the_nearest_name(change, message):
    pool = pool_of({"q": {"p": 0.9, "x": 0.5}}, {"q": {"p": 0.9}})
    with pytest.raises(LabError, match=message):
        methods.mine(pool, **change)


def test_a_table_of_other_texts_is_refused():
    found, queries, corpus = world({"q": {"p": 0.9, "x": 0.5}}, {"q": {"p": 0.9}})
    with pytest.raises(LabError, match="document 'x' is not among"):
        prepare(found, queries, corpus[corpus["id"] != "x"])
    with pytest.raises(LabError, match="query 'q' is not among"):
        prepare(found, {"other": "text"}, corpus)


def test_normalised_texts_are_what_equality_means_here():
    assert normalise("The  Positive.") == normalise("the positive")


# -- the page --------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["ceiling", "draw_keys"])
def test_the_page_shows_the_same_function(name):
    root = Path(__file__).resolve().parent.parent
    page = json.loads((root / "notebooks/03_positive_aware_mining.ipynb").read_text())
    cells = ["".join(c["source"]) for c in page["cells"] if c["cell_type"] == "code"]
    shown = [function(cell, name) for cell in cells if f"def {name}(" in cell]
    module = Path(methods.__file__).with_name(
        "mining.py" if name == "ceiling" else "selection.py"
    )
    assert shown == [function(module.read_text(), name)]


def function(source, name):
    """The AST of a function without its docstring."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.FunctionDef) and node.name == name:
            if ast.get_docstring(node):
                node.body = node.body[1:]
            return ast.dump(node)
    raise AssertionError(f"{name} is not defined")
