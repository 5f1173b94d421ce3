"""What mining costs beside sentence-transformers with FAISS, and as the corpus grows.

Vectors are given to both. Every job runs in a process of its own, so that its peak of
memory is its own; jobs take turns.
"""

import tempfile
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from datasets import Dataset
from sentence_transformers import util
from sklearn.preprocessing import normalize

from benchmarks.harness import Row, in_process, in_turn, measured, row, timed_row
from nbutils.core import RetrievalSet
from nbutils.mining import METHODS, Search, mine, mine_until_full, prepare
from nbutils.mining.search import nearest
from nbutils.mining.teachers import VectorTeacher

WIDTH = 384
NEGATIVES, PERC = 4, 0.95
DEPTH = 10 * NEGATIVES + 2
"""Candidates that the peer searches for 4 negatives and one positive."""


def rows(out: str) -> list[Row]:
    """The suite `mining`."""
    with tempfile.TemporaryDirectory() as folder:
        write_vectors(folder, 20_000, 50_000)
        own, peer = beside_peer(folder, 5)
        write_vectors(folder, 300, 6_000, topical=True)
        starved, starved_peer = beside_peer(folder, 1)
        found = [
            row("time_vs_st_faiss", own.seconds, "s", peer.seconds),
            row("memory_vs_st_faiss", own.memory, "MB", peer.memory),
            row("refilter_seconds", own.refilter, "s"),
            row("starvation_full_rows", starved.full, "of queries", starved_peer.full),
        ]
        for count in (10_000, 100_000, 1_000_000):
            write_vectors(folder, 1_000, count)
            found += in_process(scale_rows, folder)
    return found


def beside_peer(folder: str, rounds: int) -> list[pd.Series]:
    """What our job and the peer's cost: medians of processes that take turns."""
    ways = [partial(in_process, costs, side, folder) for side in ("ours", "peer")]
    return in_turn(ways, rounds, warm_up=0)


def write_vectors(folder: str, queries: int, documents: int, topical=False) -> None:
    """Unit vectors of documents around topics and of queries, float32, into the folder.

    A query is near one document, its positive; `topical` ones are near their topic
    instead, all of whose documents score alike. Written in parts: a million documents
    are 1.5 GB.
    """
    each, spread, apart = (100, 0.5, 0.2) if topical else (50, 1.2, 1.0)
    rng = np.random.default_rng(0)
    topics = normalize(rng.standard_normal((documents // each, WIDTH), np.float32))
    topic = np.zeros(documents, int)
    path, shape = f"{folder}/documents.npy", (documents, WIDTH)
    made = np.lib.format.open_memmap(path, "w+", np.float32, shape)
    for start in range(0, documents, 50_000):
        part = slice(start, start + 50_000)
        noise = rng.standard_normal(made[part].shape, np.float32)
        topic[part] = rng.integers(0, len(topics), len(noise))
        made[part] = normalize(topics[topic[part]] + spread * noise / WIDTH**0.5)
    positives = rng.integers(0, documents, queries)
    near = topics[topic[positives]] if topical else made[positives]
    noise = rng.standard_normal((queries, WIDTH), np.float32)
    asked = normalize(near + apart * noise / WIDTH**0.5)
    made.flush()
    np.savez(f"{folder}/queries.npz", asked=asked, positives=positives)


def read(folder: str, count: int | None = None) -> tuple[RetrievalSet, dict]:
    """A set of the first `count` queries and documents, and the vectors of both."""
    asked, positives = np.load(f"{folder}/queries.npz").values()
    documents = np.load(f"{folder}/documents.npy")[:count]
    texts = {f"d{n}": f"document{n} " * 40 for n in range(len(documents))}
    corpus = pd.DataFrame(texts.items(), columns=["id", "text"])
    places = positives[:count] % len(documents)
    own = {f"q{n}": [f"d{place}"] for n, place in enumerate(places)}
    queries = {query: f"query{n} " * 8 for n, query in enumerate(own)}
    vectors = {"queries": asked[:count], "corpus": documents}
    return RetrievalSet("given", queries, corpus, own), vectors


def our_job(given: RetrievalSet, vectors: dict) -> Callable:
    """Vectors to negatives, by our miner; the set stands before the clock begins."""
    ids = {"queries": [*given.queries], "corpus": [*given.corpus["id"]]}
    recipe = {"perc": PERC, "negatives_per_query": NEGATIVES}

    def job():
        search = Search(VectorTeacher(ids, vectors), given, DEPTH)
        return mine_until_full(prepare(search.candidates()), search, **recipe)

    return job


def peer_job(given: RetrievalSet, vectors: dict) -> Callable:
    """The same by sentence-transformers with FAISS and its own defaults."""
    texts = given.corpus.set_index("id")["text"]
    positives = [texts[own] for (own,) in given.positives.values()]
    pairs = {"query": [*given.queries.values()], "positive": positives}
    model = SimpleNamespace(  # what the library asks of one
        device="cpu",
        encode_query=lambda texts, **_: vectors["queries"],
        encode_document=lambda texts, **_: vectors["corpus"],
        get_embedding_dimension=lambda: WIDTH,
        similarity=util.cos_sim,
        similarity_pairwise=util.pairwise_cos_sim,
    )
    return partial(
        util.mine_hard_negatives, Dataset.from_dict(pairs), model, corpus=[*texts],
        relative_margin=1 - PERC, num_negatives=NEGATIVES, use_faiss=True,
        output_format="n-tuple", output_scores=True, verbose=False,
    )  # fmt: skip


def costs(side: str, folder: str) -> dict[str, float]:
    """Seconds, MB, share of queries with all negatives; ours: seconds to refilter."""
    job = {"ours": our_job, "peer": peer_job}[side]
    job(*read(folder, 200))()  # libraries load what they load once
    given, vectors = read(folder)
    found, seconds, _, memory = measured(job(given, vectors))
    made = {"seconds": seconds, "memory": memory}
    if side == "peer":
        return made | {"full": len(found) / len(given.queries)}
    again = [partial(mine, found.pool, mining_method=method) for method in METHODS]
    refilter = max(measured(way).seconds for way in again)
    full = float((found.queries["found"] == NEGATIVES).mean())
    return made | {"refilter": refilter, "full": full}


def scale_rows(folder: str) -> list[Row]:
    """Seconds and MB of our search of mapped vectors; peer: a product and top-k."""
    asked = np.load(f"{folder}/queries.npz")["asked"]
    vectors = np.load(f"{folder}/documents.npy", mmap_mode="c")
    ours = partial(nearest, asked, vectors, 100)

    def bare() -> None:
        every, block = torch.from_numpy(vectors), 2**24 // len(vectors)  # 64 MB
        for part in torch.from_numpy(asked).split(block):
            torch.topk(part @ every.T, 100, dim=1)

    seconds = timed_row(f"search_seconds_{len(vectors)}", ours, bare, 5)
    # all pages of the file are in memory now: what is above them is ours
    memory = row(f"search_memory_{len(vectors)}", measured(ours).more, "MB")
    return [seconds, memory]
