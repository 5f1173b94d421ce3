"""Exact nearest documents by dot product, fast and under a byte budget.

A first pass in bfloat16 (where the processor multiplies it faster) picks a few more
documents than asked for; these are scored again in float32. A bound on the first pass's
error tells for which queries that is provably the exact answer, ties included; the
others are searched again in float32. Vectors may be memory-mapped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch

from nbutils.errors import LabError
from nbutils.models import compute_dtype

BYTES = 64 * 2**20
"""Budget of what a search holds beside the vectors, its input, and its result."""

GROUP = 16
"""Documents whose best score decides whether any of them is looked at."""

TILE = 2**16
"""Most documents scored at once; more would not be faster, only larger."""


def nearest(
    queries: np.ndarray,
    documents: np.ndarray,
    k: int,
    *,
    below: np.ndarray | None = None,
    budget: int = BYTES,
    device: str = "cpu",
    dtype: str = "auto",
) -> tuple[np.ndarray, np.ndarray]:
    """Places (int32) and scores (float32) of each query's k best documents, best first.

    queries (Q, D) and documents (N, D) are float32 arrays or memory maps; both results
    are (Q, k), -1 and -inf where fewer exist. Equal scores stand in the documents'
    order. below (Q,): only documents that score less than it. dtype: of the first pass
    (`auto`, `bfloat16`, `float32`); the result is the same under each. LabError for
    vectors that are not finite or of different width.
    """
    _check(queries, documents)
    dtypes = dict.fromkeys([compute_dtype(dtype, device), torch.float32])
    places = np.full((len(queries), k), -1, dtype=np.int32)
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    ceilings = None if below is None else np.asarray(below, dtype=np.float32)
    wide = k + max(16, k // 2)
    rows = max(1, budget // (32 * wide))
    with _workers(device) as workers:
        for start in range(0, len(queries), rows):
            left = np.arange(start, min(start + rows, len(queries)))
            for kind in dtypes:
                search = _Pass(documents, kind, wide, budget, device, workers)
                own = None if ceilings is None else ceilings[left]
                found = search.run(queries[left], own, k)
                places[left], scores[left], sure = found
                left = left[~sure]
                if not len(left):
                    break
            for row in left:  # more ties than the first pass has room for
                limit = np.inf if ceilings is None else ceilings[row]
                one = _brute(queries[row], documents, k, limit)
                places[row, : len(one[0])], scores[row, : len(one[0])] = one
    return places, scores


def pair_scores(queries: np.ndarray, documents: np.ndarray, places) -> np.ndarray:
    """Scores, float32, of the documents at `places` (Q, k) for each query (Q, D).

    Every sum is taken in the same order, so equal vectors have equal scores wherever
    they stand: ties stay ties.
    """
    found = np.empty(places.shape, dtype=np.float32)
    size = max(1, 2**22 // max(1, places.shape[1] * queries.shape[1]))
    for start in range(0, len(queries), size):
        part = slice(start, start + size)
        vectors = documents[places[part]]
        np.einsum("qkd,qd->qk", vectors, queries[part], out=found[part])
    return found


class _Pass:
    """One search of all documents, tile by tile, for blocks of queries."""

    def __init__(self, documents, dtype, wide, budget, device, workers):
        self.documents, self.dtype, self.device = documents, dtype, device
        self.workers, self.count = workers
        width = torch.finfo(dtype).bits // 8
        most = max(GROUP, budget // (2 * width * documents.shape[1]))
        count = -(-len(documents) // min(TILE, most))
        self.tile = -(-len(documents) // count)
        self.tiles = range(0, len(documents), self.tile)
        self.block = max(16, budget // (2 * self.count * self.tile * width))
        self.wide = min(wide, len(documents))

    def run(self, queries, below, k):
        """Places, scores and whether they are provably right, of each query."""
        blocks = [
            slice(start, start + self.block)
            for start in range(0, len(queries), self.block)
        ]
        wide, (low, lost) = self.wide, self._rounded(queries)
        length = np.linalg.norm(queries, axis=1)
        best = torch.full((len(queries), wide), -torch.inf)
        where = torch.full((len(queries), wide), -1, dtype=torch.int32)
        error = np.zeros(len(queries))
        for start in self.tiles:
            part = np.ascontiguousarray(self.documents[start : start + self.tile])
            tile, tile_lost = self._rounded(part)
            longest = float(np.sqrt(np.einsum("nd,nd->n", part, part).max()))
            if not np.isfinite(longest):
                raise LabError("document vectors are not all finite numbers")
            bound = _bound(length, lost, longest, float(tile_lost.max()), part.shape[1])
            error = np.maximum(error, bound)
            limit = None if below is None else self._limit(below, bound)

            def one(rows, tile=tile, start=start, limit=limit):
                own = None if limit is None else limit[rows]
                self._merge(best[rows], where[rows], low[rows], tile, start, own)

            self._each(one, blocks)
        return self._settle(queries, below, k, best, where, error)

    def _each(self, task: Callable, blocks: Iterable) -> None:
        list(self.workers(task, blocks))

    def _rounded(self, vectors: np.ndarray):
        """Vectors in the first pass's dtype, and the length of what each lost."""
        whole = torch.from_numpy(np.ascontiguousarray(vectors))
        low = whole.to(self.dtype)
        if self.dtype == torch.float32:
            return low.to(self.device), np.zeros(len(vectors))
        lost = (whole - low.float()).norm(dim=1).numpy().astype(float)
        return low.to(self.device), lost

    def _limit(self, below, bound):
        """Scores from which on a document cannot be below the ceiling."""
        limit = torch.from_numpy(below + bound)
        limit = limit + limit.abs() * 2 * torch.finfo(self.dtype).eps
        return limit.to(self.dtype).to(self.device)

    def _merge(self, best, where, low, tile, start, limit):
        """Put a tile's best among the best so far (all in place)."""
        scores = torch.mm(low, tile.T)
        if limit is not None:
            scores.masked_fill_(scores >= limit[:, None], -torch.inf)
        value, place = _top(scores, min(self.wide, scores.shape[1]))
        value, place = value.cpu(), (place + start).to(torch.int32).cpu()
        if start:
            value = torch.cat([best, value], dim=1)
            place = torch.cat([where, place], dim=1)
            value, kept = torch.topk(value, self.wide, dim=1, sorted=False)
            place = torch.gather(place, 1, kept)
        width = value.shape[1]
        best[:, :width], where[:, :width] = value, place

    def _settle(self, queries, below, k, best, where, error):
        """Score what was picked again, in float32, and say where that proves enough."""
        best, where = best.numpy(), where.numpy()
        valid = best > -np.inf
        exact = np.empty_like(best)
        size = max(1, len(queries) // (4 * self.count))

        def score(start):
            rows = slice(start, start + size)
            exact[rows] = pair_scores(queries[rows], self.documents, where[rows])

        self._each(score, range(0, len(queries), size))
        ceiling = np.inf if below is None else below[:, None]
        exact[~(valid & (exact < ceiling))] = -np.inf
        order = np.lexsort((where, -exact), axis=1)[:, :k]
        scores = np.take_along_axis(exact, order, axis=1)
        places = np.take_along_axis(where, order, axis=1)
        places[scores == -np.inf] = -1
        last = np.where(valid, best, 0).min(axis=1, where=valid, initial=np.inf)
        rounding = 0 if self.dtype == torch.float32 else torch.finfo(self.dtype).eps
        others = last + error + np.abs(last) * rounding
        cut = len(self.documents) > self.wide
        sure = ~valid.all(axis=1) | (not cut)
        if scores.shape[1] == k:
            sure |= scores[:, -1] > others
        if scores.shape[1] < k:
            more = k - scores.shape[1]
            scores = np.pad(scores, ((0, 0), (0, more)), constant_values=-np.inf)
            places = np.pad(places, ((0, 0), (0, more)), constant_values=-1)
        return places, scores, sure


def _top(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k highest a row, in any order: float32 values and columns.

    The k best lie in the k groups of columns with the highest maxima, and a maximum
    over strided groups costs one pass; only those groups are searched.
    """
    rows, columns = scores.shape
    groups = columns // GROUP
    if groups <= 2 * k:
        return torch.topk(scores.float(), k, dim=1, sorted=False)
    grouped = scores[:, : GROUP * groups].unflatten(1, (GROUP, groups))
    highest = grouped.amax(dim=1).float()
    chosen = torch.topk(highest, k, dim=1, sorted=False).indices
    index = chosen[:, None, :].expand(rows, GROUP, k)
    values = torch.gather(grouped, 2, index).flatten(1).float()
    rest = scores[:, GROUP * groups :].float()
    values, kept = torch.topk(torch.cat([values, rest], 1), k, dim=1, sorted=False)
    member, group = kept // k, kept % k
    inside = member * groups + torch.gather(chosen, 1, group)
    after = kept - GROUP * k + GROUP * groups
    return values, torch.where(member < GROUP, inside, after)


def _bound(length, lost, longest: float, most_lost: float, width: int) -> np.ndarray:
    """How far a first-pass score may lie from the float32 one (Cauchy-Schwarz).

    |q·d - q'·d'| <= |q - q'||d| + |q'||d - d'|, and 2 D u |q||d| for the order in which
    two float32 sums of D terms round.
    """
    rounded = length + lost
    order = 4 * width * 2.0**-24 * rounded * (longest + most_lost)
    return lost * longest + rounded * most_lost + order


def _brute(query, documents, k, limit) -> tuple[np.ndarray, np.ndarray]:
    scores = np.concatenate(
        [
            pair_scores(query[None], documents, np.arange(s, e)[None])[0]
            for s, e in _ranges(len(documents), 2**14)
        ]
    )
    order = np.argsort(-scores, kind="stable")
    order = order[scores[order] < limit][:k]
    return order, scores[order]


def _ranges(count: int, size: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + size, count)) for start in range(0, count, size))


@contextmanager
def _workers(device: str):
    """(map, count): blocks go to single-threaded workers, without barriers on a CPU."""
    if device != "cpu":
        yield map, 1
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, initializer=_single) as pool:
            yield pool.map, threads
    finally:
        torch.set_num_threads(threads)


def _single() -> None:
    torch.set_num_threads(1)


def _check(queries: np.ndarray, documents: np.ndarray) -> None:
    if queries.ndim != 2 or documents.ndim != 2:
        raise LabError("vectors must be two-dimensional arrays, one row a text")
    if queries.shape[1] != documents.shape[1]:
        raise LabError(
            f"query vectors have {queries.shape[1]} numbers and document vectors "
            f"{documents.shape[1]}: take both from one model"
        )
    if not np.isfinite(queries).all():
        raise LabError("query vectors are not all finite numbers")
