"""Exact nearest documents by dot product, fast and in little memory; faiss on request.

A first pass, in bfloat16 where the processor multiplies it faster, picks a few more
documents than asked for; these are scored again in float32. A bound on the first pass's
error tells for which queries that is provably the exact answer, ties included; for the
others every document is scored. Vectors may be memory-mapped.
"""

import ctypes
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch.nn.functional import pad

from nbutils.core.errors import LabError
from nbutils.encoder.models import compute_dtype

BLOCK = {"cpu": 512, "cuda": 4096}  # queries searched at once by one worker
TILE = 2**12  # documents scored at once; more would not be faster, only larger
GROUP = 8  # documents of which one best score is looked at first (measured)


def nearest(
    queries: np.ndarray,
    documents: np.ndarray,
    k: int,
    *,
    below: np.ndarray | None = None,
    device: str = "cpu",
) -> tuple[np.ndarray, np.ndarray]:
    """Places (int32) and scores (float32) of each query's k best documents, best first.

    queries (Q, D) and documents (N, D) are float32 arrays or memory maps; both results
    are (Q, k), -1 and -inf where fewer exist. Equal scores stand in the documents'
    order. below (Q,): only documents that score less than it. LabError for vectors that
    are not finite or of different width.
    """
    if queries.shape[1] != documents.shape[1]:
        raise LabError(
            f"query vectors have {queries.shape[1]} numbers and document vectors "
            f"{documents.shape[1]}: take both from one model"
        )
    kind, threads = torch.device(device).type, torch.get_num_threads()
    workers = 1 if kind == "cuda" else threads
    low = torch.float32 if kind == "cuda" else compute_dtype("auto", device)
    size = min(BLOCK[kind], max(16, -(-len(queries) // workers)))
    # the longest document vector, and the longest loss of one by rounding
    parts = range(0, len(documents), 2**10)
    extent = [_rounded(documents[n : n + 2**10], low)[1:] for n in parts]
    extent = np.max([np.max(part, axis=1) for part in extent], axis=0)
    places = np.full((len(queries), k), -1, dtype=np.int32)
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    below = np.full(len(queries), np.inf) if below is None else below
    below = below.astype(np.float32)

    def search(start: int) -> None:
        rows = slice(start, start + size)
        own = np.asarray(queries[rows])
        found = _first_pass(own, documents, k, below[rows], low, extent, device)
        places[rows], scores[rows], sure = found
        for row in start + np.flatnonzero(~sure):
            every = row_scores(np.asarray(queries[row]), documents)
            best = best_of(every, k, below=below[row])
            places[row, : len(best)], scores[row, : len(best)] = best, every[best]

    one = {"initializer": torch.set_num_threads, "initargs": (1,)}
    try:  # one thread a worker: no barriers
        with ThreadPoolExecutor(workers, **one) as pool:
            list(pool.map(search, range(0, len(queries), size)))
    finally:
        torch.set_num_threads(threads)
        if sys.platform == "linux":  # glibc keeps memory for workers that have ended
            getattr(ctypes.CDLL(None), "malloc_trim", bool)(0)
    return places, scores


def best_of(
    scores: np.ndarray, k: int, *, above: float = -np.inf, below: float = np.inf
) -> np.ndarray:
    """Places of the k best of `scores` (N,) between two limits, equal ones in order."""
    found = np.flatnonzero((scores > above) & (scores < below))
    if len(found) > k:
        least = np.partition(scores[found], -k)[-k]
        found = found[scores[found] >= least]
    return found[np.argsort(-scores[found], kind="stable")][:k]


def pair_scores(queries: np.ndarray, documents: np.ndarray, places) -> np.ndarray:
    """Scores, float32, of the documents at `places` (Q, k) for each query (Q, D).

    Every sum is taken in the same order, so equal vectors have equal scores wherever
    they stand: ties stay ties.
    """
    found = np.empty(places.shape, dtype=np.float32)
    size = max(1, 2**19 // max(1, places.shape[1] * queries.shape[1]))
    for start in range(0, len(queries), size):
        part = slice(start, start + size)
        vectors = documents[places[part]]
        np.einsum("qkd,qd->qk", vectors, queries[part], out=found[part])
    return found


def row_scores(query: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """Scores (N,) of all documents for one query (D,), each as `pair_scores` has it."""
    parts = np.array_split(np.arange(len(documents)), 1 + len(documents) // 2**14)
    return np.concatenate(
        [pair_scores(query[None], documents, part[None])[0] for part in parts]
    )


def _first_pass(queries, documents, k, below, dtype, extent, device):
    """Places and scores (Q, k), and whether they are provably right (Q,).

    A first-pass score's error is bounded by Cauchy and Schwarz, |q·d - q'·d'| <=
    |q - q'||d| + |q'||d - d'|, and by 2 D u |q||d| for the order in which two float32
    sums of D terms round.
    """
    longest, most_lost = extent
    low, length, lost = _rounded(queries, dtype)
    error = lost * longest + (length + lost) * most_lost
    order = 4 * queries.shape[1] * 2.0**-24
    error += order * (length + lost) * (longest + most_lost)
    eps = torch.finfo(dtype).eps
    limit = below + error
    limit = torch.from_numpy(limit + np.abs(limit) * 2 * eps).to(device, dtype)
    wide, low = k + max(16, k // 2), low.to(device)
    best = torch.full((len(queries), wide), -torch.inf, device=device)
    where = torch.full(best.shape, -1, dtype=torch.int32, device=device)
    for start in range(0, len(documents), TILE):
        tile = _tensor(documents[start : start + TILE]).to(device, dtype)
        scores = torch.mm(tile, low.T)  # this way round nothing large is repacked
        if np.isfinite(below).any():
            scores.masked_fill_(scores >= limit, -torch.inf)
        _merge(best, where, scores, start)
    best, where = best.cpu().numpy(), where.cpu().numpy()
    where[np.isneginf(best)] = -1
    exact = pair_scores(queries, documents, where)
    exact[(where < 0) | (exact >= below[:, None])] = -np.inf
    found, exact = _in_order(where, exact, k)
    last = best.min(axis=1)
    whole = np.isneginf(last)  # nothing was left out
    last[whole] = 0
    others = last + error + np.abs(last) * eps * (dtype != torch.float32)
    return found, exact, whole | (exact[:, -1] > others)


def _merge(best, where, scores: torch.Tensor, start: int) -> None:
    """Put the best of a tile's scores (documents, queries) among the best so far.

    best and where (queries, wide) are changed in place, in no order. Only the groups
    that hold something better than the least so far are looked at; where too little is
    known, the `wide` best groups hold `wide` documents as good as the last of them.
    """
    if short := -len(scores) % GROUP:
        scores = pad(scores, (0, 0, 0, short), value=-torch.inf)
    grouped = scores.unflatten(0, (GROUP, -1))
    highest, (count, wide) = grouped.amax(dim=0), best.shape
    least, beats = best.amin(dim=1).to(scores.dtype), torch.gt
    if len(highest) >= wide and torch.isneginf(least).any():
        last = torch.topk(highest.T.float(), wide, dim=1).values[:, -1]
        last = last.clamp(torch.finfo(scores.dtype).min).to(scores.dtype)
        least, beats = torch.maximum(least, last), torch.ge
    hits = beats(highest, least).T.contiguous()  # by query
    query, group = torch.nonzero(hits, as_tuple=True)
    values = grouped[:, group, query].T
    hit, member = torch.nonzero(beats(values, least[query, None]), as_tuple=True)
    query, found = query[hit], torch.bincount(query[hit], minlength=count)
    column = torch.arange(wide, wide + len(query), device=query.device)
    column -= (found.cumsum(0) - found)[query]
    every = pad(best, (0, int(found.max())), value=-torch.inf)
    places = pad(where, (0, int(found.max())), value=-1)
    every[query, column] = values[hit, member].float()
    places[query, column] = (start + group[hit] + len(highest) * member).int()
    best[:], kept = torch.topk(every, wide, dim=1, sorted=False)
    where[:] = torch.gather(places, 1, kept)


def _in_order(places: np.ndarray, scores: np.ndarray, k: int):
    """The k best of each row, equal ones by place; -1 where the score is -inf."""
    places = np.where(scores > -np.inf, places, -1)
    order = np.lexsort((places, -scores), axis=1)[:, :k]
    return tuple(np.take_along_axis(part, order, axis=1) for part in (places, scores))


def _tensor(vectors: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.require(vectors, requirements=["C", "W"]))


def _rounded(vectors: np.ndarray, dtype):
    """Vectors in a dtype, their lengths, and the length of what each has lost."""
    whole = _tensor(vectors)
    low = whole.to(dtype)
    length, lost = (part.norm(dim=1).numpy() for part in (whole, whole - low))
    if not np.isfinite(length).all():
        raise LabError("vectors are not all finite numbers")
    return low, length, lost


def approximate(
    queries: np.ndarray, documents: np.ndarray, k: int, factory: str
) -> tuple[np.ndarray, np.ndarray]:
    """As `nearest`, by a faiss index: scores are exact, some places are missed.

    An IVF index looks into a tenth of its lists. LabError for an index that it has not,
    or cannot make of so few documents.
    """
    import faiss

    metric = faiss.METRIC_INNER_PRODUCT
    try:
        index = faiss.index_factory(documents.shape[1], factory, metric)
        index.train(documents)
    except RuntimeError as error:
        reason = str(error).rpartition("Error: ")[2].splitlines()[0]
        raise LabError(
            f"faiss makes no index {factory!r} of {len(documents)} vectors ({reason}): "
            "try 'HNSW32', or 'IVF256,Flat' for many thousands"
        ) from None
    index.add(documents)
    if hasattr(index, "nprobe"):
        index.nprobe = max(1, index.nlist // 10)
    places = index.search(queries, k)[1].astype(np.int32)
    scores = pair_scores(queries, documents, places)
    scores[places < 0] = -np.inf
    return _in_order(places, scores, k)
