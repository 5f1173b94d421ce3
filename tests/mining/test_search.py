"""Exact search among vectors against a full sort, the peer's miner, and faiss."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from sentence_transformers import util
from worlds import Given, given, unit

from nbutils.core.errors import LabError
from nbutils.mining import formats, search
from nbutils.mining.exclusion import prepare
from nbutils.mining.methods import METHODS, mine, mine_until_full


@pytest.fixture(params=[torch.bfloat16, torch.float32])
def first_pass(request, monkeypatch):
    monkeypatch.setattr(search, "compute_dtype", lambda *_: request.param)


def sorted_out(queries, documents, k, below=None):
    """Places and scores of the k best by a stable sort of all scores."""
    places = np.full((len(queries), k), -1)
    values = np.full((len(queries), k), -np.inf, np.float32)
    for row, query in enumerate(queries):
        own = search.row_scores(query, documents)
        order = np.argsort(-own, kind="stable")
        if below is not None:
            order = order[own[order] < np.float32(below[row])]
        places[row, : len(order[:k])] = order[:k]
        values[row, : len(order[:k])] = own[order[:k]]
    return places, values


def assert_exact(queries, documents, k, below=None):
    found = search.nearest(queries, documents, k, below=below)
    wanted = sorted_out(queries, documents, k, below)
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_search_is_a_full_sort_ties_ceilings_and_small_tiles_included(
    first_pass, monkeypatch
):
    rng = np.random.default_rng(0)
    for case in range(60):
        size, count, k = (int(rng.integers(1, n)) for n in (3000, 30, 60))
        width = int(rng.integers(2, 40))
        documents, queries = unit(rng, size, width), unit(rng, count, width)
        if case % 2:  # the same vector many times over: ties, in order of place
            documents = documents[rng.integers(0, 1 + size // 9, size)]
        below = rng.normal(size=count) * 0.3 if case % 3 == 0 else None
        if case % 7 == 0:  # each tile beats all tiles before it, for one query
            documents = documents[np.argsort(documents @ queries[0])]
        monkeypatch.setattr(search, "TILE", 8 * int(rng.integers(1, 400)))
        assert_exact(queries, documents, k, below)


def test_more_ties_than_a_pass_has_room_for(first_pass):
    documents = np.repeat(unit(np.random.default_rng(1), 3, 8), 200, axis=0)
    places, scores = search.nearest(documents[:1], documents, 5)
    assert places.tolist() == [[0, 1, 2, 3, 4]]
    assert len(set(scores[0])) == 1


def test_the_first_pass_alone_would_be_wrong(first_pass):
    """The proof is needed: bfloat16 orders these neighbours differently."""
    rng = np.random.default_rng(2)
    documents = unit(rng, 1, 64) + 1e-3 * unit(rng, 2000, 64)
    query = unit(rng, 1, 64)
    low = torch.from_numpy(documents).bfloat16().float().numpy() @ query[0]
    wanted, _ = sorted_out(query, documents, 10)
    assert np.argsort(-low, kind="stable")[:10].tolist() != wanted[0].tolist()
    assert_exact(query, documents, 10)


def test_memory_mapped_vectors_and_misuse(tmp_path):
    rng = np.random.default_rng(3)
    documents, queries = unit(rng, 500, 16), unit(rng, 7, 16)
    np.save(tmp_path / "d.npy", documents)
    assert_exact(queries, np.load(tmp_path / "d.npy", mmap_mode="r"), 9)
    with pytest.raises(LabError, match="have 15 numbers"):
        search.nearest(queries[:, :15], documents, 3)
    for wrong in (queries, documents):
        wrong[3, 3] = np.nan
        with pytest.raises(LabError, match="not all finite"):
            search.nearest(queries, documents, 3)
        wrong[3, 3] = 0


# -- mining over given vectors ---------------------------------------------------------


def mined(made, **changes):
    return mine_until_full(prepare(made.candidates()), made, **changes)


@pytest.mark.parametrize("kind", ["vectors", "rows"])
@pytest.mark.parametrize("anchor", ["min", "max"])
@pytest.mark.parametrize("method", METHODS)
def test_whatever_the_depth_nobody_starves(method, anchor, kind):
    """The best below the ceiling of all documents, by the definitions."""
    made = given(several=True, depth=4)
    scores = made.teacher.rows["queries"] @ made.teacher.rows["corpus"].T
    if kind == "rows":
        asked = made.data.queries.values()
        made = replace(made, teacher=Given(dict(zip(asked, scores, strict=True))))
    settings = {"abs_threshold": 0.2, "margin": 0.3, "perc": 0.5, "shift": 7}
    settings |= {"mining_method": method, "anchor": anchor}
    found = mined(made, **settings)
    got = found.negatives.groupby("query_id")["document_id"].agg(list)
    for number, query in enumerate(made.data.queries):
        own = [int(name[1:]) for name in made.data.positives[query]]
        pos = {"min": np.min, "max": np.max}[anchor](scores[number, own])
        ceiling = {
            "abs": 0.2,
            "margin_pos": pos - 0.3,
            "perc_pos": pos - 0.5 * abs(pos),
        }.get(method, np.inf)
        order = np.argsort(-scores[number], kind="stable")
        order = order[7:] if method == "shifted" else order
        free = [n for n in order if n not in own and scores[number, n] < ceiling]
        assert got.get(query, []) == [f"d{n}" for n in free[:4]]
    assert not found.explain().duplicated(["query_id", "document_id"]).any()
    cut_first = mine(prepare(made.candidates()), **settings)
    assert len(cut_first.shortfalls) > len(found.shortfalls)


def peer(made, output_format="triplet", **options) -> pd.DataFrame:
    """What sentence-transformers mines from given vectors."""
    from datasets import Dataset

    data, rows = made.data, made.teacher.rows
    model = SimpleNamespace(
        device="cpu",
        encode_query=lambda *_, **__: rows["queries"],
        encode_document=lambda *_, **__: rows["corpus"],
        similarity=util.cos_sim,
        similarity_pairwise=util.pairwise_cos_sim,
    )
    own = [(q, f"text of {d}") for q, names in data.positives.items() for d in names]
    pairs = pd.DataFrame(own, columns=["query", "positive"])
    pairs["query"] = pairs["query"].map(data.queries)
    return util.mine_hard_negatives(
        Dataset.from_pandas(pairs), model, corpus=data.corpus["text"].tolist(),
        num_negatives=3, range_max=400, output_format=output_format, verbose=False,
        **options,
    ).to_pandas()  # fmt: skip


def texts_of(made, table) -> list[list[str]]:
    """Query and negative of mined rows as the peer writes them."""
    asked = table["query_id"].map(made.data.queries)
    return [*map(list, zip(asked, "text of " + table["document_id"], strict=True))]


@pytest.mark.parametrize(
    ("method", "ours", "theirs"),
    [
        ("naive", {}, {}),
        ("abs", {"abs_threshold": 0.4}, {"max_score": 0.4}),
        ("margin_pos", {"margin": 0.1}, {"absolute_margin": 0.1}),
        ("perc_pos", {"perc": 0.9}, {"relative_margin": 0.1}),
        ("naive", {"max_score": 0.4}, {"max_score": 0.4}),
        (
            "margin_pos",
            {"margin": 0.1, "max_score": 0.4},
            {"absolute_margin": 0.1, "max_score": 0.4},
        ),
        (
            "perc_pos",
            {"perc": 0.9, "min_score": 0.3},
            {"relative_margin": 0.1, "min_score": 0.3},
        ),
    ],
)
def test_equal_to_the_peer_where_its_definition_is_the_papers(method, ours, theirs):
    made = given(seed=5, depth=50)
    table = mined(made, mining_method=method, negatives_per_query=3, **ours).negatives
    wanted = peer(made, **theirs)[["query", "negative"]].to_numpy().tolist()
    assert texts_of(made, table) == wanted and len(table) > 100


def test_shifted_equals_the_peers_range_min_counted_without_positives():
    """The peer's ranks skip the positives; ours, as the paper's list, count them.

    So a positive among the first five is one of the five that we drop, and the peer
    drops four others; where it ranks below, both drop the same five.
    """
    made = given(seed=5, depth=50)
    far = {f"q{n}": [f"d{7 * n}"] for n in range(0, 50, 2)}  # labels of low rank
    made = replace(made, data=replace(made.data, positives=made.data.positives | far))
    table = mined(made, negatives_per_query=3, mining_method="shifted", shift=5)
    found = made.candidates()
    ahead = (found.documents[:, :5] == found.positive[:, None]).any(axis=1)
    assert 5 < ahead.sum() < 55
    for inside, skipped in ((ahead, 4), (~ahead, 5)):
        names = np.array(list(made.data.queries))[inside]
        rows = table.negatives[table.negatives["query_id"].isin(names)]
        theirs = peer(made, range_min=skipped)
        theirs = theirs[theirs["query"].isin([made.data.queries[q] for q in names])]
        wanted = theirs[["query", "negative"]].to_numpy().tolist()
        assert texts_of(made, rows) == wanted and len(rows) == 3 * len(names)


@pytest.mark.parametrize("scores", [False, True])
@pytest.mark.parametrize("form", formats.FORMATS[1:])
def test_a_trainers_format_is_the_peers_own(form, scores):
    """Cell by cell; some queries have few negatives, some several positives."""
    made = given(seed=5, depth=50, several=not scores)
    recipe = {"mining_method": "abs", "abs_threshold": 0.2, "min_score": 0.187}
    table = mined(made, negatives_per_query=3, **recipe).negatives
    assert table.groupby("query_id").size().nunique() > 1
    found = formats.training_rows(table, made.data, form, scores)
    limits = {"max_score": 0.2, "min_score": 0.187}
    wanted = peer(made, output_format=form, output_scores=scores, **limits)
    assert found.shape == wanted.shape and len(found) > 20
    names = [c for c in found if "score" in c or "label" in c]
    assert set(names) <= set(wanted.columns)
    for column, other in zip(found, wanted, strict=True):
        for cell, theirs in zip(found[column], wanted[other], strict=True):
            ours, theirs = np.ravel(cell).tolist(), np.ravel(theirs).tolist()
            number = not isinstance(theirs[0], str)
            assert ours == (pytest.approx(theirs, abs=1e-5) if number else theirs)


def test_a_negative_that_was_drawn_to_fill_a_gap_has_no_score_to_teach():
    made = given(seed=5, depth=50)
    table = mined(made, negatives_per_query=3).negatives.assign(backfilled=False)
    table.loc[table.index[::3], "backfilled"] = True
    every = formats.training_rows(table, made.data, "triplet")
    scored = formats.training_rows(table, made.data, "triplet", scores=True)
    assert len(every) == len(table) > 100
    kept = "text of " + table.loc[~table["backfilled"], "document_id"]
    assert scored["negative"].tolist() == kept.tolist()


@pytest.mark.parametrize("factory", ["IVF8,Flat", "HNSW16"])
def test_an_approximate_search_says_what_it_misses(factory):
    made = given(size=3000, depth=20)
    exact = made.candidates()
    found = replace(made, index=factory).candidates()
    assert made.recall(exact) == 1
    recall = made.recall(found, sample=60)
    missed = [
        len({*a} - {*b}) for a, b in zip(exact.documents, found.documents, strict=True)
    ]
    assert recall == pytest.approx(1 - np.mean(missed) / 20)
    assert 0.2 < recall < 1 or factory.startswith("HNSW")
    np.testing.assert_array_equal(found.positive_score, exact.positive_score)
    same = exact.documents[:, 0] == found.documents[:, 0]
    np.testing.assert_array_equal(exact.scores[same, 0], found.scores[same, 0])
    # what the index missed takes its place when a query is searched deeper
    needs = pd.DataFrame({"query_id": list(made.data.queries), "ceiling": 2.0})
    deeper = made.deepen(found, needs)
    np.testing.assert_array_equal(deeper.documents[:, :20], exact.documents)
    for wrong in ("IFV8", "IVF4096,Flat"):  # unknown; of more lists than documents
        with pytest.raises(LabError, match=f"faiss makes no index '{wrong}' of"):
            replace(made, index=wrong).candidates()
