"""Candidates from vectors that are given: numbers all the way, ids only at the edge.

`Found` is for 20,000 queries what `candidates.Candidates` is for a page's few hundred:
the same table as arrays. `exclusion.prepare` takes either.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from nbutils.core.errors import LabError
from nbutils.mining.candidates import Located, places
from nbutils.mining.search import nearest, pair_scores


@dataclass(frozen=True)
class Found:
    """One teacher's candidates of Q queries as arrays, and the scores of the positives.

    documents (Q, K): places in the corpus, -1 where empty, best first; scores (Q, K);
    ranks (Q, K): 1 is the most similar, 0 below the table and not counted.
    positive_query, positive, positive_score: one entry a labelled pair, by query.
    """

    teacher: str
    documents: np.ndarray
    scores: np.ndarray
    ranks: np.ndarray
    positive_query: np.ndarray
    positive: np.ndarray
    positive_score: np.ndarray

    def __len__(self) -> int:
        return int((self.documents >= 0).sum())

    def located(self, queries: pd.Index, documents: pd.Index) -> Located:
        """The same, flat; LabError where it was not made from so many queries."""
        if len(queries) != len(self.documents):
            raise LabError(
                f"the candidates are of {len(self.documents)} queries and "
                f"{len(queries)} are given: search again"
            )
        there = self.documents >= 0
        return Located(
            query=np.repeat(np.arange(len(there)), there.sum(axis=1)),
            document=self.documents[there],
            score=self.scores[there],
            rank=self.ranks[there],
            positive_query=self.positive_query,
            positive=self.positive,
            positive_score=self.positive_score,
        )


@dataclass(frozen=True)
class VectorSearch:
    """Exact search among given vectors, for `mining.mine_until_full`.

    query_vectors (Q, D) in the order of `queries` and vectors (N, D) in the order of
    `corpus` (columns id, text), float32 arrays or memory maps. positives: query id to
    the ids of its labelled positives. index: empty for exact search, or the faiss
    factory string of an approximate index (`IVF256,Flat`, `HNSW32`); `recall` says what
    it misses. Deepening is always exact. LabError where the parts do not fit together.
    """

    query_vectors: np.ndarray
    vectors: np.ndarray
    queries: Mapping[str, str]
    corpus: pd.DataFrame
    positives: Mapping[str, Sequence[str]]
    depth: int
    name: str = "vectors"
    budget: int | None = None
    device: str = "cpu"
    index: str = ""
    _pairs: tuple = field(default=(), init=False, repr=False)

    def __post_init__(self) -> None:
        for vectors, texts, kind in (
            (self.query_vectors, self.queries, "query"),
            (self.vectors, self.corpus, "document"),
        ):
            if len(vectors) != len(texts):
                raise LabError(
                    f"{len(vectors)} {kind} vectors for {len(texts)} {kind} texts: "
                    "give one vector a text, in their order"
                )
        lacking = next((q for q in self.queries if not self.positives.get(q)), None)
        if lacking is not None:
            raise LabError(f"query {lacking!r} has no labelled positive: give it one")
        names = [self.positives[query] for query in self.queries]
        query = np.repeat(np.arange(len(names)), [len(ids) for ids in names])
        flat = [name for ids in names for name in ids]
        document = places(pd.Index(self.corpus["id"]), flat, "document")
        object.__setattr__(self, "_pairs", (query, document))

    def candidates(self) -> Found:
        """The `depth` best documents of each query, and the scores of its positives."""
        if self.index:
            return self._found(*approximate(self, self.index))
        return self._found(*self._nearest(slice(None), self.depth))

    def recall(self, found: Found, sample: int = 200, seed: int = 0) -> float:
        """Share of the exact candidates of `sample` random queries that `found` has."""
        rng = np.random.default_rng(seed)
        count = min(sample, len(self.queries))
        rows = np.sort(rng.choice(len(self.queries), count, replace=False))
        exact, _ = self._nearest(rows, self.depth)
        there = (exact[:, :, None] == found.documents[rows][:, None, :]).any(axis=2)
        return float(there[exact >= 0].mean())

    def sharded(self, accelerator) -> Found:
        """`candidates`, each process searching its share of the queries.

        accelerator: accelerate's `Accelerator`. Every process gets the whole table, the
        same as one process would make: a query's search does not depend on others.
        """
        from accelerate.utils import gather_object

        count, rank = accelerator.num_processes, accelerator.process_index
        share = np.array_split(np.arange(len(self.queries)), count)[rank]
        rows = slice(share[0], share[-1] + 1) if len(share) else slice(0, 0)
        parts = gather_object([(rank, *self._nearest(rows, self.depth))])
        parts.sort(key=lambda part: part[0])
        _, documents, scores = zip(*parts, strict=True)
        return self._found(np.concatenate(documents), np.concatenate(scores))

    def _found(self, documents: np.ndarray, scores: np.ndarray) -> Found:
        ranks = np.arange(1, self.depth + 1, dtype=np.int32) * (documents >= 0)
        query, positive = self._pairs
        own = pair_scores(self.query_vectors[query], self.vectors, positive[:, None])
        return Found(self.name, documents, scores, ranks, query, positive, own[:, 0])

    def deepen(self, found: Found, needs: pd.DataFrame) -> Found:
        """Add, for queries that ran out, the next documents below their ceiling.

        needs: query_id and ceiling (several rows of a query count by the highest).
        """
        ceilings = needs.groupby("query_id", sort=False)["ceiling"].max()
        rows = places(pd.Index(list(self.queries)), ceilings.index, "query")
        limit = ceilings.to_numpy(dtype=np.float32)
        known = found.documents[rows]
        deep = min(len(self.vectors), self.depth + known.shape[1])
        documents, scores = self._nearest(rows, deep, limit)
        old = (documents[:, :, None] == known[:, None, :]).any(axis=2)
        documents = np.where(old, -1, documents)
        order = np.argsort(documents < 0, axis=1, kind="stable")[:, : self.depth]
        new = np.take_along_axis(documents, order, axis=1)
        return replace(
            found,
            documents=_beside(found.documents, rows, new, -1),
            scores=_beside(
                found.scores, rows, np.take_along_axis(scores, order, axis=1), -np.inf
            ),
            ranks=_beside(found.ranks, rows, np.zeros_like(new), 0),
        )

    def _nearest(self, rows, k: int, below=None):
        return nearest(
            np.asarray(self.query_vectors[rows]),
            self.vectors,
            k,
            below=below,
            budget=self.budget,
            device=self.device,
        )


def _beside(grid, rows, more, empty) -> np.ndarray:
    """`grid` with `more` (for some rows) put to its right."""
    wide = np.full((len(grid), more.shape[1]), empty, dtype=grid.dtype)
    wide[rows] = more
    return np.concatenate([grid, wide], axis=1)


def approximate(search: VectorSearch, factory: str) -> tuple[np.ndarray, np.ndarray]:
    """Places and scores by a faiss index; scores are exact, some places are missed.

    An IVF index looks into a tenth of its lists. LabError for a factory it lacks.
    """
    import faiss

    vectors, width = search.vectors, search.vectors.shape[1]
    try:
        index = faiss.index_factory(width, factory, faiss.METRIC_INNER_PRODUCT)
    except RuntimeError:
        raise LabError(
            f"faiss knows no index {factory!r}: try 'IVF256,Flat' or 'HNSW32'"
        ) from None
    index.train(np.ascontiguousarray(vectors))
    for start in range(0, len(vectors), 2**16):
        index.add(np.ascontiguousarray(vectors[start : start + 2**16]))
    if hasattr(index, "nprobe"):
        index.nprobe = max(1, index.nlist // 10)
    asked = np.ascontiguousarray(search.query_vectors)
    depth = min(search.depth, len(vectors))
    documents = index.search(asked, depth)[1].astype(np.int32)
    scores = pair_scores(asked, vectors, documents)
    scores[documents < 0] = -np.inf
    order = np.lexsort((documents, -scores), axis=1)
    documents = np.take_along_axis(documents, order, axis=1)
    scores = np.take_along_axis(scores, order, axis=1)
    more = ((0, 0), (0, search.depth - depth))
    return (
        np.pad(documents, more, constant_values=-1),
        np.pad(scores, more, constant_values=-np.inf),
    )
