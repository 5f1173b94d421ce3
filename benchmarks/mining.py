"""What mining costs beside sentence-transformers with FAISS, and as the corpus grows.

Vectors are given to both. Every job runs in a process of its own, so that its peak of
memory is its own; jobs take turns.
"""

from __future__ import annotations

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
    """What `ours` and `theirs` cost, medians of processes that take turns."""
    ways = {job.__name__: partial(in_process, job, folder) for job in (ours, theirs)}
    found = in_turn(ways, rounds, warm_up=0)
    return [pd.DataFrame([*calls.result]).median() for calls in found.values()]


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


def read(folder: str, count: int | None = None) -> SimpleNamespace:
    """Vectors, texts and positives of the first `count` queries and documents."""
    asked, positives = np.load(f"{folder}/queries.npz").values()
    vectors = np.load(f"{folder}/documents.npy")[:count]
    return SimpleNamespace(
        asked=asked[:count],
        vectors=vectors,
        positives=positives[:count] % len(vectors),
        queries=[f"query{n} " * 8 for n in range(len(asked[:count]))],
        documents=[f"document{n} " * 40 for n in range(len(vectors))],
    )


def our_job(data: SimpleNamespace) -> Callable:
    """Vectors to negatives, by our miner; the set stands before the clock begins."""
    queries = {f"q{n}": text for n, text in enumerate(data.queries)}
    own = {f"q{n}": [f"d{place}"] for n, place in enumerate(data.positives)}
    names = [f"d{n}" for n in range(len(data.documents))]
    corpus = pd.DataFrame({"id": names, "text": data.documents})
    given = RetrievalSet("given", queries, corpus, own)

    def job():
        ids = {"queries": list(queries), "corpus": names}
        vectors = {"queries": data.asked, "corpus": data.vectors}
        search = Search(VectorTeacher(ids, vectors), given, DEPTH)
        recipe = {"perc": PERC, "negatives_per_query": NEGATIVES}
        return mine_until_full(prepare(search.candidates()), search, **recipe)

    return job


def ours(folder: str) -> dict[str, float]:
    """Seconds, MB, share of queries with all negatives; seconds of another method."""
    our_job(read(folder, 200))()  # libraries load what they load once
    found, seconds, _, memory = measured(our_job(read(folder)))
    full = (found.queries["found"] == NEGATIVES).mean()
    refilter = max(
        measured(lambda m=m: mine(found.pool, mining_method=m)).seconds for m in METHODS
    )
    costs = {"seconds": seconds, "memory": memory, "refilter": refilter}
    return {**costs, "full": float(full)}


def peer_job(data: SimpleNamespace) -> Callable:
    """The same by sentence-transformers with FAISS and its own defaults."""
    positives = [data.documents[place] for place in data.positives]
    pairs = Dataset.from_dict({"query": data.queries, "positive": positives})
    model = SimpleNamespace(  # what the library asks of one
        device="cpu",
        encode_query=lambda texts, **_: data.asked,
        encode_document=lambda texts, **_: data.vectors,
        get_embedding_dimension=lambda: WIDTH,
        similarity=util.cos_sim,
        similarity_pairwise=util.pairwise_cos_sim,
    )
    return partial(
        util.mine_hard_negatives, pairs, model, corpus=data.documents,
        relative_margin=1 - PERC, num_negatives=NEGATIVES, use_faiss=True,
        output_format="n-tuple", output_scores=True, verbose=False,
    )  # fmt: skip


def theirs(folder: str) -> dict[str, float]:
    """What the peer's job costs, and the share of queries with all negatives."""
    peer_job(read(folder, 200))()
    data = read(folder)
    found, seconds, _, memory = measured(peer_job(data))
    return {"seconds": seconds, "memory": memory, "full": len(found) / len(data.asked)}


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
