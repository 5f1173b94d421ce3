"""What mining costs beside sentence-transformers with FAISS, and as the corpus grows.

Vectors are given to both. Every job runs in a process of its own, so that its peak of
memory is its own; jobs are interleaved and a row is the median of `REPEATS`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd

from nbutils.core import machine
from nbutils.core.errors import LabError
from nbutils.core.files import write_json, write_table
from nbutils.core.settings import ROOT

REPEATS = 5
QUERIES, DOCUMENTS, WIDTH = 20_000, 50_000, 384
NEGATIVES, PERC = 4, 0.95
PEER_DEPTH = 10 * NEGATIVES + 2
"""Candidates that the peer searches for 4 negatives and one positive."""

SCALES = (10_000, 100_000, 1_000_000)
SCALE_QUERIES, SCALE_DEPTH = 1_000, 100


def rows(out: str = "runs", profile: str = "workshop") -> list[dict]:
    """Rows of the suite `mining`; the curve is written to OUT/bench/ as a figure."""
    from benchmarks.harness import row

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        _write_data(folder, QUERIES, DOCUMENTS, topical=False)
        ours, peer = _interleaved(["ours", "peer"], folder)
        found = [
            row("time_vs_st_faiss", *_pair(ours, peer, "seconds")),
            row("memory_vs_st_faiss", *_pair(ours, peer, "megabytes")),
            row("refilter_seconds", _median(ours, "refilter"), "s"),
            row("full_rows", *_pair(ours, peer, "full", "of queries")),
        ]
        _write_data(folder, 300, 6_000, topical=True)
        ours, peer = _interleaved(["ours", "peer"], folder, repeats=1)
        found += [row("starvation_full_rows", *_pair(ours, peer, "full", "of queries"))]
        curve = _scaling(folder)
    for part in curve.itertuples():
        found += [
            row(f"search_seconds_{part.documents}", part.ours, "s", part.bare),
            row(f"search_memory_{part.documents}", part.memory, "MB"),
        ]
    _draw(curve, Path(ROOT, out, "bench"))
    return found


def _pair(ours, peer, name: str, unit: str | None = None) -> tuple[float, str, float]:
    """Value, unit and the peer's value."""
    unit = unit or {"seconds": "s", "megabytes": "MB"}[name]
    return _median(ours, name), unit, _median(peer, name)


def _median(results: list[dict], name: str) -> float:
    return float(np.median([result[name] for result in results]))


def _interleaved(jobs: list[str], folder: Path, repeats: int = REPEATS):
    found = [[_child(job, folder) for job in jobs] for _ in range(repeats)]
    return zip(*found, strict=True)


def _scaling(folder: Path) -> pd.DataFrame:
    """Seconds of our search and of product plus top-k, and our memory, by documents."""
    found = []
    for count in SCALES:
        _write_vectors(folder, SCALE_QUERIES, count)
        found.append({"documents": count, **_child("scale", folder)})
    return pd.DataFrame(found)


def _child(job: str, folder: Path) -> dict:
    """What a job measured, run in a fresh process."""
    code = "import sys; from nbutils import bench_mining as b; b.child(*sys.argv[1:])"
    command = [sys.executable, "-c", code, job, str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise LabError(f"the benchmark's job {job!r} failed: {last}")
    return json.loads(done.stdout.splitlines()[-1])


def child(job: str, folder: str) -> None:
    """Run one job on the data in `folder` and print what it measured as JSON."""
    print(json.dumps(JOBS[job](Path(folder))))


# -- the data --------------------------------------------------------------------------


def _unit(vectors: np.ndarray) -> np.ndarray:
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def _write_vectors(folder: Path, queries: int, documents: int, spread=1.2) -> list[int]:
    """Documents around topics, and queries near one document each, their positive.

    Unit vectors, float32; returns each query's positive. Written in parts, because a
    million documents are 1.5 GB.
    """
    rng = np.random.default_rng(0)
    topics = _unit(rng.standard_normal((max(1, documents // 50), WIDTH), np.float32))
    path = folder / "documents.npy"
    made = np.lib.format.open_memmap(
        path, mode="w+", dtype=np.float32, shape=(documents, WIDTH)
    )
    for start in range(0, documents, 50_000):
        rows = slice(start, min(start + 50_000, documents))
        noise = rng.standard_normal((rows.stop - start, WIDTH), np.float32)
        topic = topics[rng.integers(0, len(topics), len(noise))]
        made[rows] = _unit(topic + spread * noise / WIDTH**0.5)
    positives = rng.integers(0, documents, queries)
    noise = rng.standard_normal((queries, WIDTH), np.float32)
    asked = _unit(made[positives] + noise / WIDTH**0.5)
    made.flush()
    np.save(folder / "queries.npy", asked.astype(np.float32))
    return positives.tolist()


def _write_topical(folder: Path, queries: int, documents: int) -> list[int]:
    """As `_write_vectors`, but the query is its topic: all of a topic scores alike."""
    rng = np.random.default_rng(1)
    count = documents // 100
    topics = _unit(rng.standard_normal((count, WIDTH)))
    topic = np.arange(documents) % count
    noise = rng.standard_normal((documents, WIDTH)) / WIDTH**0.5
    made = _unit(topics[topic] + 0.5 * noise)
    positives = rng.integers(0, documents, queries)
    noise = rng.standard_normal((queries, WIDTH)) / WIDTH**0.5
    asked = _unit(topics[topic[positives]] + 0.2 * noise)
    np.save(folder / "documents.npy", made.astype(np.float32))
    np.save(folder / "queries.npy", asked.astype(np.float32))
    return positives.tolist()


def _write_data(folder: Path, queries: int, documents: int, *, topical: bool) -> None:
    """Vectors and texts of one job. The texts are made-up words, each text its own."""
    write = _write_topical if topical else _write_vectors
    positives = write(folder, queries, documents)
    rng = np.random.default_rng(2)
    words = np.array([f"word{number}" for number in range(5_000)])

    def texts(count: int, length: int) -> list[str]:
        drawn = words[rng.integers(0, len(words), (count, length))]
        return [f"{' '.join(row)} {number}" for number, row in enumerate(drawn)]

    write_json(
        folder / "texts.json",
        {
            "queries": texts(queries, 8),
            "documents": texts(documents, 40),
            "positives": positives,
        },
    )


def _read_data(folder: Path):
    texts = json.loads((folder / "texts.json").read_text())
    return np.load(folder / "queries.npy"), np.load(folder / "documents.npy"), texts


# -- the jobs --------------------------------------------------------------------------


def _measured(job: Callable[[], object]) -> tuple[object, dict[str, float]]:
    """The job's result, its seconds, and its peak memory above what there was, MB."""
    before = machine.memory_now()
    machine.forget_peak()
    began = time.perf_counter()
    result = job()
    seconds = time.perf_counter() - began
    peak = (machine.peak_memory_gb() - before) * 1024
    return result, {"seconds": seconds, "megabytes": peak}


def _ours(folder: Path) -> dict:
    """Vectors to a table of negatives, and another method over the same candidates."""
    from nbutils.mining import exclusion, methods, recipe
    from nbutils.mining.arrays import VectorSearch

    def search(asked, vectors, texts):
        queries = {f"q{n}": text for n, text in enumerate(texts["queries"])}
        names = [f"d{n}" for n in range(len(vectors))]
        corpus = pd.DataFrame({"id": names, "text": texts["documents"]})
        own = {f"q{n}": [f"d{p}"] for n, p in enumerate(texts["positives"])}
        return VectorSearch(asked, vectors, queries, corpus, own, PEER_DEPTH)

    def job(made):
        def once(found):
            pool = exclusion.prepare(found, made.queries, made.corpus)
            return methods.mine(pool, method="perc_pos", perc=PERC, k=NEGATIVES)

        return methods.mine_until_full(made.candidates(), once, made.deepen)

    asked, vectors, texts = _read_data(folder)
    job(search(*_few(asked, vectors, texts)))  # libraries load what they load once
    given = search(asked, vectors, texts)
    mined, cost = _measured(lambda: job(given))
    count = mined.negatives.groupby("query_id").size()
    full = float((count == NEGATIVES).sum() / len(asked))
    refilter = [
        _measured(lambda m=m: methods.mine(mined.pool, method=m, k=NEGATIVES))[1]
        for m in recipe.METHODS
    ]
    return {**cost, "full": full, "refilter": max(r["seconds"] for r in refilter)}


def _peer(folder: Path) -> dict:
    """The same negatives from sentence-transformers with FAISS, its own defaults."""
    from datasets import Dataset
    from sentence_transformers import util

    def job(asked, vectors, texts):
        rows = [texts["documents"][place] for place in texts["positives"]]
        pairs = Dataset.from_dict({"query": texts["queries"], "positive": rows})
        return util.mine_hard_negatives(
            pairs,
            _given(asked, vectors),
            corpus=texts["documents"],
            relative_margin=1 - PERC,
            num_negatives=NEGATIVES,
            use_faiss=True,
            output_format="n-tuple",
            output_scores=True,
            verbose=False,
        )

    asked, vectors, texts = _read_data(folder)
    job(*_few(asked, vectors, texts))
    mined, cost = _measured(lambda: job(asked, vectors, texts))
    return {**cost, "full": len(mined) / len(asked)}


def _few(asked, vectors, texts, count: int = 200):
    """The first documents, and the first of their queries, of the data."""
    places = [n for n, p in enumerate(texts["positives"]) if p < count] or [0]
    positives = [texts["positives"][n] for n in places]
    return (
        asked[places],
        vectors[: max(count, max(positives) + 1)],
        {
            "queries": [texts["queries"][n] for n in places],
            "documents": texts["documents"][: max(count, max(positives) + 1)],
            "positives": positives,
        },
    )


def _given(asked: np.ndarray, vectors: np.ndarray) -> SimpleNamespace:
    """What the peer asks of a model, answered with vectors that are given."""
    from sentence_transformers.util import cos_sim, pairwise_cos_sim

    return SimpleNamespace(
        device="cpu",
        encode_query=lambda texts, **_: asked,
        encode_document=lambda texts, **_: vectors,
        get_embedding_dimension=lambda: vectors.shape[1],
        similarity=cos_sim,
        similarity_pairwise=pairwise_cos_sim,
    )


def _scale(folder: Path) -> dict:
    """Our search of memory-mapped vectors, and the bare product and top-k, by turns."""
    import torch

    from nbutils.mining.candidates import BYTES
    from nbutils.mining.search import nearest

    asked = np.load(folder / "queries.npy")
    vectors = np.load(folder / "documents.npy", mmap_mode="c")
    size = max(1, BYTES // (4 * len(vectors)))

    def bare():
        own, all_ = torch.from_numpy(asked), torch.from_numpy(vectors)
        for start in range(0, len(asked), size):
            torch.topk(own[start : start + size] @ all_.T, SCALE_DEPTH, dim=1)

    def ours():
        nearest(asked, vectors, SCALE_DEPTH)

    ours()  # all pages of the file are in memory now: what is above them is ours
    found = [(_measured(bare)[1], _measured(ours)[1]) for _ in range(REPEATS)]
    bares, own = zip(*found, strict=True)
    return {
        "bare": _median(bares, "seconds"),
        "ours": _median(own, "seconds"),
        "memory": _median(own, "megabytes"),
    }


JOBS = {"ours": _ours, "peer": _peer, "scale": _scale}


def _draw(curve: pd.DataFrame, folder: Path) -> None:
    """Write the curve as a csv file and a figure, and print its description."""
    from nbutils.plots import mining

    figure, text = mining.scaling(curve)
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder / "mining_scaling.csv", curve)
    figure.savefig(folder / "mining_scaling.png", metadata={"Description": text})
    print(text)
