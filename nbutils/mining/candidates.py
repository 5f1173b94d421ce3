"""The candidate table: every query's best documents under one teacher, found once.

NV-Retriever's methods differ only in which candidates they keep, so the expensive part
is done once and stored, with a fingerprint of all that it depends on.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import pandas as pd

from nbutils.core.errors import LabError
from nbutils.core.files import read_table, write_table
from nbutils.core.retrieval import RetrievalSet
from nbutils.mining.scoring import RowScores, Teacher, VectorScores, digest, places
from nbutils.mining.search import approximate


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
    def of_frames(cls, data: RetrievalSet, teacher: str, table, positives):
        """From frames such as `table` and `positives`: by query, then by rank."""
        names, documents = pd.Index(list(data.queries)), pd.Index(data.corpus["id"])
        query = names.get_indexer(table["query_id"])
        counts = np.bincount(query, minlength=len(names))
        there = np.arange(counts.max(initial=0)) < counts[:, None]
        grids = []
        for values, empty, kind in (
            (documents.get_indexer(table["document_id"]), -1, np.int32),
            (table["score"], -np.inf, np.float32),
            (table["rank"], 0, np.int32),
        ):
            grids.append(np.full(there.shape, empty, kind))
            grids[-1][there] = values
        scores = positives["score"].to_numpy(np.float32)
        return cls(data, teacher, *grids, *pairs_of(data, data.positives), scores)

    def __len__(self) -> int:
        return int((self.documents >= 0).sum())

    @property
    def table(self) -> pd.DataFrame:
        """One row a candidate: query_id, document_id, score, rank."""
        at = np.nonzero(self.documents >= 0)
        frame = self.named(at[0], self.documents[at])
        return frame.assign(score=self.scores[at], rank=self.ranks[at])

    @property
    def positives(self) -> pd.DataFrame:
        """One row a labelled pair: query_id, document_id, score."""
        frame = self.named(self.positive_query, self.positive)
        return frame.assign(score=self.positive_score)

    def named(self, query: np.ndarray, document: np.ndarray) -> pd.DataFrame:
        """Pairs of places as ids: query_id, document_id."""
        names = pd.Series(list(self.data.queries), dtype="str").take(query).array
        documents = self.data.corpus["id"].take(document).array
        return pd.DataFrame({"query_id": names, "document_id": documents})

    def by_score(self) -> Self:
        """Each query's candidates from best to worst; equal ones stay as they stood."""
        order = np.argsort(-self.scores, axis=1, kind="stable")
        grids = {
            name: np.take_along_axis(getattr(self, name), order, axis=1)
            for name in ("documents", "scores", "ranks")
        }
        return replace(self, **grids)


def pairs_of(
    data: RetrievalSet, ids_of: Mapping[str, Sequence[str]]
) -> tuple[np.ndarray, np.ndarray]:
    """Query and document places of {query id: document ids}, for the set's queries."""
    ids = [ids_of.get(query, ()) for query in data.queries]
    query = np.repeat(np.arange(len(ids)), [len(own) for own in ids])
    fault = "document {!r} is named for a query and is not in the corpus: add it"
    names = [name for own in ids for name in own]
    return query, places(pd.Index(data.corpus["id"]), names, fault)


@dataclass(frozen=True)
class Search:
    """The search of a set's queries in its corpus with one teacher.

    depth: candidates a query. index: empty for exact search, or an approximate one's
    faiss factory string. rescorer: a cross-encoder that has the last word. LabError for
    a set without queries or documents, an id that stands twice, a query without a
    positive.
    """

    teacher: Teacher
    data: RetrievalSet
    depth: int
    index: str = ""
    rescorer: Callable[[Candidates], Candidates] | None = None

    def __post_init__(self) -> None:
        data, ids = self.data, self.data.corpus["id"]
        if not (data.queries and len(ids)):
            raise LabError("there are no queries, or no documents to mine from")
        if ids.duplicated().any():
            name = ids[ids.duplicated()].iloc[0]
            raise LabError(f"document id {name!r} stands twice in the corpus")
        lacking = next((q for q in data.queries if not data.positives.get(q)), None)
        if lacking is not None:
            raise LabError(f"query {lacking!r} has no labelled positive: give it one")
        object.__setattr__(self, "depth", min(self.depth, len(ids)))

    @cached_property
    def _scores(self) -> VectorScores | RowScores:
        return self.teacher.scores(self.data)

    @cached_property
    def fingerprint(self) -> str:
        """Names everything that the table depends on."""
        data, rescorer = self.data, ""
        if self.rescorer:
            rescorer = [self.rescorer.name, self.rescorer.weights]
        return digest(
            [self.teacher.fingerprint, self.depth, self.index, rescorer],
            list(data.queries.items()),
            data.corpus[["id", "text"]].values.tolist(),
            [list(data.positives[query]) for query in data.queries],
        )

    def candidates(self) -> Candidates:
        """The `depth` best documents of each query, and the scores of its positives."""
        query, positive = pairs_of(self.data, self.data.positives)
        scores = self._scores
        if not self.index:
            documents, values, own = scores.first(self.depth, query, positive)
        elif isinstance(scores, VectorScores):
            vectors = scores.queries, scores.documents
            documents, values = approximate(*vectors, self.depth, self.index)
            own = scores.pairs(query, positive)
        else:
            raise LabError(f"teacher {self.teacher.name!r} has no vectors to `index`")
        ranks = np.arange(1, self.depth + 1, dtype=np.int32) * (documents >= 0)
        found = Candidates(
            self.data, self.teacher.name, documents, values, ranks, query, positive, own
        )
        return self.rescorer(found) if self.rescorer else found

    def recall(self, found: Candidates, sample: int = 200, seed: int = 0) -> float:
        """Share of the exact candidates of `sample` random queries that `found` has."""
        count = min(sample, len(self.data.queries))
        draw = np.random.default_rng(seed)
        rows = np.sort(draw.choice(len(self.data.queries), count, replace=False))
        exact, _ = self._scores.top(rows, self.depth)
        there = (exact[:, :, None] == found.documents[rows][:, None, :]).any(axis=2)
        return float(there[exact >= 0].mean())

    def deepen(self, found: Candidates, needs: pd.DataFrame) -> Candidates:
        """Add, for queries that ran out, the `depth` next documents below a ceiling.

        needs: query_id and ceiling. The search is exact, and none is repeated. A
        cross-encoder's ceiling cannot be searched below: nothing is added.
        """
        if self.rescorer:
            return found
        rows = pd.Index(list(self.data.queries)).get_indexer(needs["query_id"])
        below, width = needs["ceiling"].to_numpy(np.float32), found.documents.shape[1]
        deep = min(len(self.data.corpus), self.depth + width)
        room = (0, 0), (0, self.depth)
        documents = np.pad(found.documents, room, constant_values=-1)
        scores = np.pad(found.scores, room, constant_values=-np.inf)
        ranks = np.pad(found.ranks, room)
        more = zip(*self._scores.top(rows, deep, below), strict=True)
        for row, limit, (place, score) in zip(rows, below, more, strict=True):
            new = np.flatnonzero(~np.isin(place, documents[row]))[: self.depth]
            at = slice(width, width + len(new))
            documents[row, at], scores[row, at] = place[new], score[new]
            ranks[row, at] = new + 1 if np.isinf(limit) else 0
        # an index may have left gaps: what fills them belongs before what follows
        grids = {"documents": documents, "scores": scores, "ranks": ranks}
        return replace(found, **grids).by_score()


def search_stored(path: str | Path, search: Search) -> Candidates:
    """The candidates in the parquet file `path`, written anew if it has others.

    Its column `kind` tells `candidate` rows from `positive` rows.
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
