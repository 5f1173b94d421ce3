"""Exact nearest documents by dot product, fast and under a byte budget.

A first pass in bfloat16 (where the processor multiplies it faster) picks a few more
documents than asked for; these are scored again in float32. A bound on the first pass's
error tells for which queries that is provably the exact answer, ties included; the
others are searched again in float32. Vectors may be memory-mapped.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch

from nbutils.core.errors import LabError
from nbutils.encoder.models import compute_dtype

BYTES = {"cpu": 8 * 2**20, "cuda": 512 * 2**20}
"""Budget of what a search holds beside the vectors, its input, and its result."""

GROUP = 8
"""Documents whose best score decides whether any of them is looked at (measured)."""

TILE = 2**13
"""Most documents scored at once; more would not be faster, only larger."""


def nearest(
    queries: np.ndarray,
    documents: np.ndarray,
    k: int,
    *,
    below: np.ndarray | None = None,
    budget: int | None = None,
    device: str = "cpu",
    dtype: str = "auto",
) -> tuple[np.ndarray, np.ndarray]:
    """Places (int32) and scores (float32) of each query's k best documents, best first.

    queries (Q, D) and documents (N, D) are float32 arrays or memory maps; both results
    are (Q, k), -1 and -inf where fewer exist. Equal scores stand in the documents'
    order. below (Q,): only documents that score less than it. budget: in bytes; None is
    what BYTES gives the device. dtype: of the first pass (`auto`, `bfloat16`,
    `float32`); the result is the same under each. LabError for vectors that are not
    finite or of different width.
    """
    _check(queries, documents)
    budget = BYTES[torch.device(device).type] if budget is None else budget
    dtypes = dict.fromkeys([compute_dtype(dtype, device), torch.float32])
    places = np.full((len(queries), k), -1, dtype=np.int32)
    scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
    ceilings = np.full(len(queries), np.inf, dtype=np.float32)
    ceilings[:] = np.inf if below is None else below
    wide = k + max(16, k // 2)
    rows = max(1, budget // (64 * wide))
    with _workers(device) as workers:
        for start in range(0, len(queries), rows):
            left = np.arange(start, min(start + rows, len(queries)))
            for kind in dtypes:
                search = _Pass(documents, kind, wide, budget, device, workers)
                own = np.asarray(queries[_span(left)])
                found = search.run(own, ceilings[left], k)
                places[left], scores[left], sure = found
                left = left[~sure]
                if not len(left):
                    break
            for row in left:  # more ties than the first pass has room for
                one = _brute(np.asarray(queries[row]), documents, k, ceilings[row])
                places[row, : len(one[0])], scores[row, : len(one[0])] = one
    return places, scores


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
        self.block = max(16, budget // (4 * self.count * self.tile * width))
        self.wide = min(wide, len(documents))

    def run(self, queries, below, k):
        """Places, scores and whether they are provably right, of each query."""
        blocks = [
            slice(start, start + self.block)
            for start in range(0, len(queries), self.block)
        ]
        wide, (low, lost) = self.wide, self._rounded(queries)
        length = np.sqrt(np.einsum("qd,qd->q", queries, queries))
        best = torch.full((len(queries), wide), -torch.inf)
        where = torch.full((len(queries), wide), -1, dtype=torch.int32)
        error = np.zeros(len(queries))
        for start in self.tiles:
            part = self.documents[start : start + self.tile]
            longest = float(np.sqrt(np.einsum("nd,nd->n", part, part).max()))
            if not np.isfinite(longest):
                raise LabError("document vectors are not all finite numbers")
            tile, tile_lost = self._rounded(part)
            bound = _bound(length, lost, longest, float(tile_lost.max()), part.shape[1])
            error = np.maximum(error, bound)
            limit = self._limit(below, bound)

            def one(rows, tile=tile, start=start, limit=limit):
                own = None if limit is None else limit[rows]
                self._merge(best[rows], where[rows], low[rows], tile, start, own)

            self._each(one, blocks)
        return self._settle(queries, below, k, best.numpy(), where.numpy(), error)

    def _each(self, task: Callable, blocks: Iterable) -> None:
        list(self.workers(task, blocks))

    def _rounded(self, vectors: np.ndarray):
        """Vectors in the first pass's dtype, and the length of what each lost."""
        whole = torch.from_numpy(np.require(vectors, requirements=["C", "W"]))
        low, lost = whole.to(self.dtype), np.zeros(len(vectors))
        if self.dtype != torch.float32:

            def one(ends):
                rows = slice(*ends)
                lost[rows] = (whole[rows] - low[rows]).norm(dim=1).numpy()

            self._each(one, _ranges(len(vectors), 2**10))
        return low.to(self.device), lost

    def _limit(self, below, bound):
        """Scores from which on a document cannot be below the ceiling."""
        if np.isposinf(below).all():
            return None
        limit = torch.from_numpy(below + bound)
        limit = limit + limit.abs() * 2 * torch.finfo(self.dtype).eps
        return limit.to(self.dtype).to(self.device)

    def _merge(self, best, where, low, tile, start, limit):
        """Put a tile's best among the best so far (all in place)."""
        scores = torch.mm(tile, low.T)  # this way round nothing large is repacked
        if limit is not None:
            scores.masked_fill_(scores >= limit, -torch.inf)
        if not start:
            value, place = _top(scores, min(self.wide, len(scores)))
            width = value.shape[1]
            best[:, :width], where[:, :width] = value.cpu(), place.cpu()
            return
        least = best.min(dim=1).values.to(self.device)
        value, place = (part.cpu() for part in _above(scores, least, self.wide))
        value = torch.cat([best, value], dim=1)
        place = torch.cat([where, place + start], dim=1)
        value, kept = torch.topk(value, self.wide, dim=1, sorted=False)
        best[:], where[:] = value, torch.gather(place, 1, kept)

    def _settle(self, queries, below, k, best, where, error):
        """Score what was picked again, in float32, and say where that proves enough."""
        scores = np.full((len(queries), k), -np.inf, dtype=np.float32)
        places = np.full((len(queries), k), -1, dtype=np.int32)
        last = np.empty(len(queries))

        def one(ends):
            rows = slice(*ends)
            valid = best[rows] > -np.inf
            last[rows] = best[rows].min(axis=1)
            exact = pair_scores(queries[rows], self.documents, where[rows])
            exact[~(valid & (exact < below[rows, None]))] = -np.inf
            order = np.lexsort((where[rows], -exact), axis=1)[:, :k]
            values = np.take_along_axis(exact, order, axis=1)
            found = np.take_along_axis(where[rows], order, axis=1)
            scores[rows, : order.shape[1]] = values
            places[rows, : order.shape[1]] = np.where(values > -np.inf, found, -1)

        self._each(one, _ranges(len(queries), 512))
        all_ = np.isneginf(last) | (len(self.documents) <= self.wide)
        last[all_] = -1e30  # nothing was left out
        rounding = 0 if self.dtype == torch.float32 else torch.finfo(self.dtype).eps
        others = last + error + np.abs(last) * rounding
        return places, scores, all_ | (scores[:, -1] > others)


def _top(scores: torch.Tensor, k: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The k highest of each column, in any order: values and rows, (columns, k).

    The k best lie in the k groups of rows with the highest maxima, and a maximum over
    strided groups costs one pass; only those groups are searched.
    """
    rows, columns = scores.shape
    groups = rows // GROUP
    if groups <= 2 * k:
        values, place = torch.topk(scores.T.float(), k, dim=1, sorted=False)
        return values, place.to(torch.int32)
    grouped = scores[: GROUP * groups].unflatten(0, (GROUP, groups))
    highest = grouped.amax(dim=0).T.float()
    chosen = torch.topk(highest, k, dim=1, sorted=False).indices
    index = chosen.T.expand(GROUP, k, columns)
    values = torch.gather(grouped, 1, index).flatten(0, 1)
    values = torch.cat([values, scores[GROUP * groups :]]).T.float()
    values, kept = torch.topk(values, k, dim=1, sorted=False)
    member, group = kept // k, kept % k
    inside = member * groups + torch.gather(chosen, 1, group)
    after = kept - GROUP * k + GROUP * groups
    return values, torch.where(member < GROUP, inside, after).to(torch.int32)


def _above(scores: torch.Tensor, least: torch.Tensor, k: int):
    """What exceeds `least` (columns,) in each column: values and rows, (columns, most).

    Filled up with -inf where a column has fewer than the one that has most; where that
    one has more than k, the k highest of each. After the first tile few documents do,
    and a group of rows is looked at only where its maximum does.
    """
    groups, columns = len(scores) // GROUP, scores.shape[1]
    grouped = scores[: GROUP * groups].unflatten(0, (GROUP, groups))
    low = least.to(scores.dtype)  # exact: it is one of the first pass's own scores
    hits = (grouped.amax(dim=0) > low).T
    if int(hits.sum(dim=1).max()) > k:
        return _top(scores, min(k, len(scores)))
    column, group = torch.nonzero(hits, as_tuple=True)
    values = grouped[:, group, column].T
    hit, member = torch.nonzero(values > low[column, None], as_tuple=True)
    rest = scores[GROUP * groups :].T
    other, after = torch.nonzero(rest > low[:, None], as_tuple=True)
    column, order = torch.sort(torch.cat([column[hit], other]), stable=True)
    row = torch.cat([member * groups + group[hit], after + GROUP * groups])[order]
    value = torch.cat([values[hit, member], rest[other, after]])[order]
    count = torch.bincount(column, minlength=columns)
    slot = torch.arange(len(column), device=scores.device)
    slot -= (count.cumsum(0) - count)[column]
    shape = (columns, int(count.max()))
    found = torch.full(shape, -torch.inf, device=scores.device)
    found[column, slot] = value.float()
    where = torch.full(shape, -1, dtype=torch.int32, device=scores.device)
    where[column, slot] = row.to(torch.int32)
    return found, where


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


def _span(rows: np.ndarray) -> slice | np.ndarray:
    """Rows as a slice where they are one: a view instead of a copy."""
    whole = len(rows) and rows[-1] - rows[0] + 1 == len(rows)
    return slice(rows[0], rows[-1] + 1) if whole else rows


def _ranges(count: int, size: int) -> Iterator[tuple[int, int]]:
    return ((start, min(start + size, count)) for start in range(0, count, size))


@contextmanager
def _workers(device: str):
    """(map, count): blocks go to single-threaded workers, without barriers on a CPU."""
    if torch.device(device).type == "cuda":
        with _full_sums():
            yield map, 1
        return
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads, initializer=_single) as pool:
            yield pool.map, threads
    finally:
        torch.set_num_threads(threads)
        _give_back()


@contextmanager
def _full_sums():
    """A GPU's products summed in float32, as the bound on the error supposes."""
    matmul = torch.backends.cuda.matmul
    names = ("allow_bf16_reduced_precision_reduction", "allow_tf32")
    before = {name: getattr(matmul, name) for name in names}
    try:
        for name in names:
            setattr(matmul, name, False)
        yield
    finally:
        for name, value in before.items():
            setattr(matmul, name, value)


def _single() -> None:
    torch.set_num_threads(1)


def _give_back() -> None:
    """Return to the system what glibc keeps for each worker that has ended."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


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
