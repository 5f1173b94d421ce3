"""Exact search among given vectors, against a full sort, and the peer's miner."""

import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from sentence_transformers import util

from nbutils.core.errors import LabError
from nbutils.mining import methods, recipe, search
from nbutils.mining.arrays import VectorSearch
from nbutils.mining.exclusion import prepare
from nbutils.plots import mining


def unit(rng, *shape):
    vectors = rng.standard_normal(shape, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def sorted_out(queries, documents, k, below=None):
    """Places and scores of the k best by a stable sort of all scores."""
    everyone = np.broadcast_to(
        np.arange(len(documents)), (len(queries), len(documents))
    )
    scores = search.pair_scores(queries, documents, everyone)
    places = np.full((len(queries), k), -1)
    values = np.full((len(queries), k), -np.inf, np.float32)
    for row, own in enumerate(scores):
        order = np.argsort(-own, kind="stable")
        if below is not None:
            order = order[own[order] < np.float32(below[row])]
        places[row, : len(order[:k])] = order[:k]
        values[row, : len(order[:k])] = own[order[:k]]
    return places, values


@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_search_is_a_full_sort_ties_ceilings_and_small_budgets_included(dtype):
    rng = np.random.default_rng(0)
    for case in range(60):
        size, count, k = (int(rng.integers(1, n)) for n in (4000, 30, 60))
        width = int(rng.integers(2, 40))
        documents, queries = unit(rng, size, width), unit(rng, count, width)
        if case % 2:  # the same vector many times over: ties, in order of place
            documents = documents[rng.integers(0, 1 + size // 9, size)]
        below = rng.normal(size=count) * 0.3 if case % 3 == 0 else None
        budget = int(rng.integers(2**12, 2**22))
        found = search.nearest(
            queries, documents, k, below=below, budget=budget, dtype=dtype
        )
        wanted = sorted_out(queries, documents, k, below)
        for ours, theirs in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(ours, theirs)


def test_documents_that_get_better_and_better_are_found():
    """Each tile beats all tiles before it, for some queries and not for others."""
    rng = np.random.default_rng(0)
    documents, queries = unit(rng, 3000, 24), unit(rng, 20, 24)
    documents = documents[np.argsort(documents @ queries[0])]
    found = search.nearest(queries, documents, 30, budget=2**14, dtype="bfloat16")
    wanted = sorted_out(queries, documents, 30)
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_tile_of_better_documents_gives_no_more_than_are_wanted():
    """Otherwise one query could take a whole tile's memory."""
    scores = torch.randn(800, 3, generator=torch.Generator().manual_seed(0))
    values, rows = search._above(scores, torch.tensor([-9.0, 3.0, 9.0]), 5)
    assert values.shape == rows.shape == (3, 5)
    assert torch.equal(values.sort(descending=True).values, scores.topk(5, dim=0)[0].T)


def test_a_gpus_settings_are_put_back():
    matmul = torch.backends.cuda.matmul
    before = matmul.allow_bf16_reduced_precision_reduction
    with search._full_sums():
        assert not matmul.allow_bf16_reduced_precision_reduction
        assert not matmul.allow_tf32
    assert matmul.allow_bf16_reduced_precision_reduction == before


def test_more_ties_than_the_first_pass_has_room_for():
    rng = np.random.default_rng(1)
    documents = np.repeat(unit(rng, 3, 8), 200, axis=0)
    places, scores = search.nearest(documents[:1], documents, 5)
    assert places.tolist() == [[0, 1, 2, 3, 4]]
    assert len(set(scores[0])) == 1


def test_the_first_pass_alone_would_be_wrong():
    """The proof is needed: bfloat16 orders these neighbours differently."""
    rng = np.random.default_rng(2)
    documents = unit(rng, 1, 64) + 1e-3 * unit(rng, 2000, 64)
    query = unit(rng, 1, 64)
    low = search.torch.from_numpy(documents).bfloat16().float().numpy() @ query[0]
    wanted, _ = sorted_out(query, documents, 10)
    assert np.argsort(-low, kind="stable")[:10].tolist() != wanted[0].tolist()
    assert search.nearest(query, documents, 10)[0].tolist() == wanted.tolist()


def test_memory_mapped_vectors_and_misuse(tmp_path):
    rng = np.random.default_rng(3)
    documents, queries = unit(rng, 500, 16), unit(rng, 7, 16)
    np.save(tmp_path / "d.npy", documents)
    mapped = np.load(tmp_path / "d.npy", mmap_mode="r")
    for ours, theirs in zip(
        search.nearest(queries, mapped, 9), search.nearest(queries, documents, 9),
        strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(LabError, match="have 15 numbers"):
        search.nearest(queries[:, :15], documents, 3)
    documents[3, 3] = np.nan
    with pytest.raises(LabError, match="not all finite"):
        search.nearest(queries, documents, 3)


# -- mining over given vectors ---------------------------------------------------------


def given(count=60, size=400, width=16, seed=0, depth=100, several=False):
    rng = np.random.default_rng(seed)
    documents = unit(rng, size, width)
    positives = rng.integers(0, size, (count, 3 if several else 1))
    queries = documents[positives[:, 0]] + 0.7 * unit(rng, count, width)
    queries = (queries / np.linalg.norm(queries, axis=1, keepdims=True)).astype("f4")
    names = [f"d{n}" for n in range(size)]
    corpus = pd.DataFrame({"id": names, "text": [f"text of {name}" for name in names]})
    asked = {f"q{n}": f"ask q{n}" for n in range(count)}
    own = {f"q{n}": [f"d{p}" for p in {*row}] for n, row in enumerate(positives)}
    return VectorSearch(queries, documents, asked, corpus, own, depth)


def mined(made, **changes):
    def once(found):
        return methods.mine(prepare(found, made.queries, made.corpus), **changes)

    return methods.mine_until_full(made.candidates(), once, made.deepen)


@pytest.mark.parametrize("anchor", ["min", "max", "mean"])
@pytest.mark.parametrize("method", recipe.METHODS)
def test_vectors_are_mined_as_the_definitions_say(method, anchor):
    """From all documents, whatever the table's depth: nobody starves."""
    made = given(several=True, depth=12)
    changes = {"k": 4, "threshold": 0.2, "margin": 0.3, "perc": 0.5, "shift": 3}
    table = mined(made, method=method, anchor=anchor, **changes).negatives
    got = table.groupby("query_id")["document_id"].agg(list)
    scores = made.query_vectors @ made.vectors.T
    for number, query in enumerate(made.queries):
        own = [int(name[1:]) for name in made.positives[query]]
        pos = {"min": np.min, "max": np.max, "mean": np.mean}[anchor](
            scores[number, own]
        )
        ceiling = {
            "abs": 0.2,
            "margin_pos": pos - 0.3,
            "perc_pos": pos - 0.5 * abs(pos),
        }
        order = np.argsort(-scores[number], kind="stable")
        if method == "shifted":
            order = order[3:]
        want = [
            f"d{n}" for n in order
            if n not in own and scores[number, n] < ceiling.get(method, np.inf)
        ]  # fmt: skip
        assert got.get(query, []) == want[:4]


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ({"method": "naive"}, {}),
        ({"method": "abs", "threshold": 0.4}, {"max_score": 0.4}),
        ({"method": "margin_pos", "margin": 0.1}, {"absolute_margin": 0.1}),
        ({"method": "perc_pos", "perc": 0.9}, {"relative_margin": 0.1}),
    ],
)
def test_equal_to_the_peer_where_its_definition_is_the_papers(ours, theirs):
    made = given(seed=5, depth=50)
    table = mined(made, k=3, **ours).negatives
    asked = table["query_id"].map(made.queries)
    negatives = "text of " + table["document_id"]
    assert peers(made, **theirs) == list(zip(asked, negatives, strict=True))
    assert len(table) > 100


def test_shifted_equals_the_peers_range_min_counted_without_positives():
    """The peer's ranks skip the positives; ours, as the paper's list, count them.

    So a positive among the first five is one of the five that we drop, and the peer
    drops four others; where it ranks below, both drop the same five.
    """
    made = given(seed=5, depth=50)
    far = {f"q{n}": [f"d{7 * n}"] for n in range(0, 50, 2)}  # labels of low rank
    made = replace(made, positives=made.positives | far)
    table = mined(made, k=3, method="shifted", shift=5)
    first = made.candidates().documents[:, :5]
    ahead = (first == made._pairs[1][:, None]).any(axis=1)
    assert 5 < ahead.sum() < 55
    for inside, skipped in ((ahead, 4), (~ahead, 5)):
        names = np.array(list(made.queries))[inside]
        rows = table.negatives[table.negatives["query_id"].isin(names)]
        asked = [made.queries[name] for name in names]
        theirs = [p for p in peers(made, range_min=skipped) if p[0] in asked]
        wanted = rows["query_id"].map(made.queries), "text of " + rows["document_id"]
        assert theirs == list(zip(*wanted, strict=True))
        assert len(rows) == 3 * len(names)


def peers(made, **options) -> list[tuple[str, str]]:
    """Query and negative texts that sentence-transformers mines from given vectors."""
    texts = made.corpus["text"].tolist()
    model = SimpleNamespace(
        device="cpu",
        encode_query=lambda *_, **__: made.query_vectors,
        encode_document=lambda *_, **__: made.vectors,
        similarity=util.cos_sim,
        similarity_pairwise=util.pairwise_cos_sim,
    )
    pairs = pd.DataFrame(
        [(made.queries[q], f"text of {own[0]}") for q, own in made.positives.items()],
        columns=["query", "positive"],
    )
    from datasets import Dataset

    peer = util.mine_hard_negatives(
        Dataset.from_pandas(pairs), model, corpus=texts, num_negatives=3,
        range_max=400, output_format="triplet", verbose=False, **options,
    ).to_pandas()  # fmt: skip
    return list(zip(peer["query"], peer["negative"], strict=True))


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
    with pytest.raises(LabError, match="faiss knows no index 'IFV8'"):
        replace(made, index="IFV8").candidates()


SHARD = """
import sys, pickle
sys.path.insert(0, sys.argv[1])
from accelerate import Accelerator
from test_search import given
accelerator = Accelerator(cpu=True)
assert accelerator.num_processes == 2
found = given(count=61).sharded(accelerator)
with open(f"{sys.argv[2]}/{accelerator.process_index}.pickle", "wb") as file:
    pickle.dump(found, file)
"""


def test_two_processes_make_the_identical_table(tmp_path):
    script = tmp_path / "shard.py"
    script.write_text(SHARD)
    command = [
        sys.executable, "-m", "torch.distributed.run", "--standalone",
        "--nproc-per-node", "2",
        str(script), str(Path(__file__).parent), str(tmp_path),
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, capture_output=True, text=True, env=environment, timeout=240
    )
    assert done.returncode == 0, done.stderr[-2000:]
    whole = given(count=61).candidates()
    for rank in (0, 1):
        found = pickle.loads((tmp_path / f"{rank}.pickle").read_bytes())
        for name, values in vars(whole).items():
            np.testing.assert_array_equal(getattr(found, name), values)


def test_vectors_that_do_not_fit_their_texts_are_refused():
    made = given()
    with pytest.raises(LabError, match="400 document vectors for 399"):
        VectorSearch(
            made.query_vectors, made.vectors, made.queries, made.corpus[:399],
            made.positives, 10,
        )  # fmt: skip
    with pytest.raises(LabError, match="has no labelled positive"):
        VectorSearch(
            made.query_vectors, made.vectors, made.queries, made.corpus, {}, 10
        )


# -- the figures of mining -------------------------------------------------------------


def test_the_figures_say_their_numbers():
    curve = pd.DataFrame(
        {"documents": [10, 100], "ours": [1.0, 3.0], "bare": [2.0, 4.0], "memory": 9.0}
    )
    text = mining.scaling(curve)[1]
    assert "10: 0.50 of the bare time, 9 MB" in text and "100: 0.75" in text
    pairs = pd.DataFrame(
        [("a", "b", 0.1), ("a", "b", 0.3), ("a", "c", 0.6), ("b", "c", 0.5)],
        columns=["one", "other", "jaccard"],
    )
    figure, text = mining.overlap_matrix(pairs)
    assert "3 teachers mine: least a and b (0.20), most a and c (0.60)" in text
    drawn = {label.get_text() for label in figure.axes[0].texts}
    assert drawn == {"1.00", "0.20", "0.60", "0.50"}


def test_the_rank_histogram_counts_every_negative_once():
    ranks = {"naive": [2, 2, 3, 4], "shifted": [11, 30, 31, 4000]}
    rows = [(m, r, r == 2) for m, own in ranks.items() for r in own]
    table = pd.DataFrame(rows, columns=["method", "rank", "planted"])
    figure, text = mining.rank_histogram(table)
    assert "naive 2 (2 to 4), shifted 30 (17 to 2809)" in text and text.endswith(".")
    axis = figure.axes[0]
    names = [label.get_text() for label in figure.axes[1].get_xticklabels()]
    assert names[14:] == ["15", "16–20", "21–30", "31–50", "51–100", "> 100"]
    whole, planted = (
        {names[n]: bar.get_height() for n, bar in enumerate(bars) if bar.get_height()}
        for bars in axis.containers
    )
    assert whole == {"2": 0.5, "3": 0.25, "4": 0.25} and planted == {"2": 0.5}
    shifted = [bar.get_height() for bar in figure.axes[1].containers[0]]
    assert sum(shifted) == 1 and shifted[-1] == 0.25
