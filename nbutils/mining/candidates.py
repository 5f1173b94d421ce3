"""The candidate table: every query's best documents under one teacher, found once.

NV-Retriever's methods differ only in which candidates they keep, so the expensive part
(score every document for every query) is done once and stored; `methods` then filters.
A stored table is bound to what made it by a fingerprint: teacher, queries, corpus,
positives and depth.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from nbutils.core.errors import LabError
from nbutils.core.files import read_table, write_table
from nbutils.core.retrieval import RetrievalSet
from nbutils.mining.scoring import RowScores, Teacher, VectorScores, digest, places
from nbutils.mining.search import approximate

SAMPLE = 200
"""Queries whose candidates tell the recall of an approximate search."""


@dataclass(frozen=True)
class Candidates:
    """One teacher's candidates of Q queries as arrays, and the scores of the positives.

    documents (Q, K): places in the corpus, best first, -1 where empty; scores (Q, K),
    -inf where empty; ranks (Q, K): 1 is the most similar of the corpus, labelled
    positives counted; 0 where empty, or found below a ceiling later and not counted.
    positive_query, positive, positive_score: one entry a labelled pair, by query.
    """

    data: RetrievalSet
    teacher: str
    documents: np.ndarray
    scores: np.ndarray
    ranks: np.ndarray
    positive_query: np.ndarray
    positive: np.ndarray
    positive_score: np.ndarray

    @classmethod
    def of_frames(
        cls, data: RetrievalSet, teacher: str, table: pd.DataFrame, positives
    ) -> Candidates:
        """From frames as `table` and `positives` are; LabError for an unknown id."""
        names, documents = pd.Index(list(data.queries)), pd.Index(data.corpus["id"])
        other = "is not among the texts given: the candidate table belongs to others"
        query = places(names, table["query_id"], f"query {{!r}} {other}")
        document = places(documents, table["document_id"], f"document {{!r}} {other}")
        order = np.lexsort((table["rank"], query))
        query = query[order]
        column = np.arange(len(query)) - np.searchsorted(query, query)
        shape = len(names), column.max(initial=0) + 1

        def grid(values, empty, dtype) -> np.ndarray:
            made = np.full(shape, empty, dtype=dtype)
            made[query, column] = np.asarray(values)[order]
            return made

        own = places(names, positives["query_id"], f"query {{!r}} {other}")
        first = np.argsort(own, kind="stable")
        labelled = places(
            documents, positives["document_id"], f"document {{!r}} {other}"
        )
        return cls(
            data,
            teacher,
            grid(document, -1, np.int32),
            grid(table["score"], -np.inf, np.float32),
            grid(table["rank"], 0, np.int32),
            own[first],
            labelled[first],
            positives["score"].to_numpy(np.float32)[first],
        )

    def __len__(self) -> int:
        return int((self.documents >= 0).sum())

    @property
    def table(self) -> pd.DataFrame:
        """One row a candidate: query_id, document_id, score, rank."""
        query, place = np.nonzero(self.documents >= 0)
        ranks = self.ranks[query, place]
        return self._frame(
            query, self.documents[query, place], self.scores[query, place], rank=ranks
        )

    @property
    def positives(self) -> pd.DataFrame:
        """One row a labelled pair: query_id, document_id, score."""
        return self._frame(self.positive_query, self.positive, self.positive_score)

    def _frame(self, query, document, score, **more) -> pd.DataFrame:
        names = np.array(list(self.data.queries), dtype=object)[query]
        return pd.DataFrame(
            {
                "query_id": pd.Series(names, dtype="str"),
                "document_id": self.data.corpus["id"].take(document).array,
                "score": score,
                **more,
            }
        )


# -- the search ------------------------------------------------------------------------


@dataclass(frozen=True)
class Search:
    """The search of a set's queries in its corpus with one teacher.

    depth: candidates a query. index: empty for exact search, or the faiss factory
    string of an approximate one, of which `recall` says what it misses. rescorer: a
    cross-encoder that has the last word on candidates and positives (`rescoring`).
    Raises LabError for an empty corpus, repeated document ids, a query without a
    positive, or a positive that is not in the corpus.
    """

    teacher: Teacher
    data: RetrievalSet
    depth: int
    index: str = ""
    rescorer: Callable[[Candidates], Candidates] | None = None

    def __post_init__(self) -> None:
        _check(self.data)
        depth = min(self.depth, len(self.data.corpus))
        object.__setattr__(self, "depth", depth)

    @cached_property
    def _scores(self) -> VectorScores | RowScores:
        return self.teacher.scores(self.data)

    @cached_property
    def fingerprint(self) -> str:
        """Names everything that the table depends on."""
        data = self.data
        return digest(
            self.teacher.fingerprint,
            list(data.queries.items()),
            data.corpus["id"].tolist(),
            data.corpus["text"].tolist(),
            [(query, list(data.positives[query])) for query in data.queries],
            self.depth,
            self.index,
            getattr(self.rescorer, "name", ""),
        )

    def candidates(self) -> Candidates:
        """The `depth` best documents of each query, and the scores of its positives."""
        query, positive = pairs_of(self.data, self.data.positives)
        scores = self._scores
        if not self.index:
            documents, values, own = scores.first(self.depth, query, positive)
        elif isinstance(scores, VectorScores):
            asked, vectors = scores.queries, scores.documents
            found = approximate(asked, vectors, self.depth, self.index)
            documents, values, own = *found, scores.pairs(query, positive)
        else:
            raise LabError(f"teacher {self.teacher.name!r} has no vectors to `index`")
        ranks = np.arange(1, self.depth + 1, dtype=np.int32) * (documents >= 0)
        found = Candidates(
            self.data, self.teacher.name, documents, values, ranks, query, positive, own
        )
        return found if self.rescorer is None else self.rescorer(found)

    def recall(self, found: Candidates, sample: int = SAMPLE, seed: int = 0) -> float:
        """Share of the exact candidates of `sample` random queries that `found` has."""
        count = min(sample, len(self.data.queries))
        draw = np.random.default_rng(seed)
        rows = np.sort(draw.choice(len(self.data.queries), count, replace=False))
        exact, _ = self._scores.top(rows, self.depth, np.full(count, np.inf))
        there = (exact[:, :, None] == found.documents[rows][:, None, :]).any(axis=2)
        return float(there[exact >= 0].mean())

    def deepen(self, found: Candidates, needs: pd.DataFrame) -> Candidates:
        """Add, for queries that ran out, the next documents below their ceiling.

        needs: query_id and ceiling. This is what masking before the cut asks for: a
        query whose whole table lies above its ceiling still gets the `depth` best
        documents under it, by exact search. Documents that are in the table already are
        not repeated. A cross-encoder's ceiling cannot be searched below: nothing added.
        """
        if self.rescorer is not None:
            return found
        names = pd.Index(list(self.data.queries))
        rows = names.get_indexer(needs["query_id"])
        known = found.documents[rows]
        deep = min(len(self.data.corpus), self.depth + known.shape[1])
        more, values = self._scores.top(rows, deep, needs["ceiling"].to_numpy("f4"))
        more[(more[:, :, None] == known[:, None, :]).any(axis=2)] = -1
        values[more < 0] = -np.inf
        best = np.argsort(-values, axis=1, kind="stable")[:, : self.depth]
        more, values = (np.take_along_axis(part, best, 1) for part in (more, values))

        def beside(old, new, empty) -> np.ndarray:
            wide = np.full((len(old), new.shape[1]), empty, dtype=old.dtype)
            wide[rows] = new
            return np.concatenate([old, wide], axis=1)

        documents = beside(found.documents, more, -1)
        scores = beside(found.scores, values, -np.inf)
        open_ = np.isinf(needs["ceiling"].to_numpy())[:, None]  # nothing is above it
        ranks = beside(found.ranks, np.where(open_, best + 1, 0), 0)
        order = np.lexsort((documents, -scores), axis=1)  # an index may have left gaps
        return replace(
            found,
            documents=np.take_along_axis(documents, order, axis=1),
            scores=np.take_along_axis(scores, order, axis=1),
            ranks=np.take_along_axis(ranks, order, axis=1),
        )

    def ranks(self, pairs: pd.DataFrame) -> np.ndarray:
        """Rank in the whole corpus of each pair (columns query_id, document_id).

        1 + how many documents the teacher scores higher, or equal and earlier.
        """
        names = pd.Index(list(self.data.queries))
        asked = names.get_indexer(pairs["query_id"])
        column = pd.Index(self.data.corpus["id"]).get_indexer(pairs["document_id"])
        ranks = np.empty(len(pairs), dtype=np.int32)
        for query in np.unique(asked):
            scores = self._scores.row(query)
            for pair in np.flatnonzero(asked == query):
                own = scores[column[pair]]
                equal = scores[: column[pair]] == own
                ranks[pair] = 1 + (scores > own).sum() + equal.sum()
        return ranks


def pairs_of(data: RetrievalSet, ids_of) -> tuple[np.ndarray, np.ndarray]:
    """Query and document places of {query id: document ids}, for the set's queries."""
    names = [ids_of.get(query, ()) for query in data.queries]
    query = np.repeat(np.arange(len(names)), [len(ids) for ids in names])
    fault = "document {!r} is named for a query and is not in the corpus: add it"
    flat = [name for ids in names for name in ids]
    return query, places(pd.Index(data.corpus["id"]), flat, fault)


def _check(data: RetrievalSet) -> None:
    missing = {"id", "text"} - set(data.corpus.columns)
    if missing:
        raise LabError(f"the corpus lacks the column {min(missing)!r}")
    if data.corpus.empty:
        raise LabError("the corpus is empty: there is nothing to mine from")
    if not data.queries:
        raise LabError("there are no queries to mine for")
    repeated = data.corpus["id"][data.corpus["id"].duplicated()]
    if len(repeated):
        raise LabError(f"document id {repeated.iloc[0]!r} stands twice in the corpus")
    lacking = next((q for q in data.queries if not data.positives.get(q)), None)
    if lacking is not None:
        raise LabError(f"query {lacking!r} has no labelled positive: give it one")


# -- the file --------------------------------------------------------------------------


def search_stored(path: str | Path, search: Search) -> Candidates:
    """The candidates in the file `path` if `search` would give the same, else anew.

    A parquet file; its column `kind` tells `candidate` rows from `positive` rows.
    """
    try:
        both = read_table(path)
    except LabError:  # missing or damaged: the search below writes it
        both = pd.DataFrame()
    if both.attrs.get("fingerprint") == search.fingerprint:
        parts = (both[both["kind"] == kind] for kind in ("candidate", "positive"))
        return Candidates.of_frames(search.data, both.attrs["teacher"], *parts)
    found = search.candidates()
    table = found.table.assign(kind="candidate")
    labelled = found.positives.assign(rank=np.int32(0), kind="positive")
    both = pd.concat([table, labelled])
    both.attrs = {"fingerprint": search.fingerprint, "teacher": found.teacher}
    write_table(path, both)
    return found
