"""How a teacher's scores are asked for: by products of vectors, or by whole rows.

Both kinds answer two questions: the best documents of every query and the scores of
some pairs (`first`), and the best of some queries below a ceiling (`top`).
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd

from nbutils.core.errors import LabError
from nbutils.core.retrieval import RetrievalSet
from nbutils.mining.search import best_of, nearest, pair_scores

BYTES = 64 * 2**20
"""Budget of the scores of one block of queries, where a teacher has no vectors."""


@dataclass
class VectorScores:
    """Products of query vectors (Q, D) and document vectors (N, D), float32."""

    queries: np.ndarray
    documents: np.ndarray
    device: str = "cpu"

    def first(self, depth: int, query, document):
        """Places and scores (Q, depth) of the best, and the scores of some pairs."""
        return *self.top(slice(None), depth), self.pairs(query, document)

    def pairs(self, query, document) -> np.ndarray:
        """Scores (P,) of pairs of places; some at a time, for they are copied."""
        parts = np.array_split(np.arange(len(query)), 1 + len(query) // 4096)
        scores = (
            pair_scores(self.queries[query[p]], self.documents, document[p, None])
            for p in parts
        )
        return np.concatenate([*scores])[:, 0]

    def top(self, rows, depth: int, below: np.ndarray | None = None):
        """Places and scores of the best for some queries, each below a ceiling."""
        asked, device = self.queries[rows], self.device
        return nearest(asked, self.documents, depth, below=below, device=device)


class RowScores:
    """Scores that a function gives for whole rows: texts of queries to (queries, N).

    floor: a score that a document must exceed to be a candidate at all.
    """

    def __init__(self, score: Callable, data: RetrievalSet, floor: float = -np.inf):
        self._score, self._floor = score, floor
        self._texts = list(data.queries.values())
        self._size = max(1, BYTES // (4 * len(data.corpus)))

    def first(self, depth: int, query, document):
        """As `VectorScores.first`; each row of scores is made once."""
        own, rows = np.empty(len(query), dtype=np.float32), range(len(self._texts))
        return *self.top(rows, depth, pairs=(query, document, own)), own

    def top(self, rows, depth: int, below: np.ndarray | None = None, pairs=None):
        """As `VectorScores.top`; pairs: places by query, and room for their scores."""
        documents = np.full((len(rows), depth), -1, dtype=np.int32)
        found = np.full((len(rows), depth), -np.inf, dtype=np.float32)
        below = np.full(len(rows), np.inf) if below is None else below
        for row, number in enumerate(rows):
            if row % self._size == 0:
                part = [self._texts[n] for n in rows[row : row + self._size]]
                block = np.asarray(self._score(part), dtype=np.float32)
                if np.isnan(block).any():
                    raise LabError("the teacher gave scores that are not numbers")
            scores = block[row % self._size]
            best = best_of(scores, depth, above=self._floor, below=below[row])
            documents[row, : len(best)], found[row, : len(best)] = best, scores[best]
            if pairs is not None:
                own = slice(*np.searchsorted(pairs[0], [number, number + 1]))
                pairs[2][own] = scores[pairs[1][own]]
        return documents, found


class Teacher(Protocol):
    """Whoever scores candidates; the fingerprint names what the scores depend on."""

    name: str
    fingerprint: str

    def scores(self, data: RetrievalSet) -> VectorScores | RowScores: ...


def places(index: pd.Index, names, fault: str) -> np.ndarray:
    """Where `names` stand in `index`; LabError `fault` with the first that does not."""
    found = index.get_indexer(pd.Index(names, dtype=index.dtype))
    if len(found) and found.min() < 0:
        raise LabError(fault.format(list(names)[int(found.argmin())]))
    return found


def digest(*parts: object) -> str:
    """Short hex digest of JSON-able parts."""
    text = json.dumps(parts, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]
