"""The candidate table: exact search with one teacher, and the file that keeps it.

NV-Retriever's methods differ only in which candidates they keep, so the expensive part
(score every document for every query) is done once and stored; `nbutils.mining` then
filters. A table is bound to what made it by a fingerprint: teacher, queries, corpus,
positives and depth.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from nbutils.core.errors import LabError
from nbutils.core.files import atomic

BYTES = 64 * 2**20
"""Budget of the score matrix of one block of queries."""

Scorer = Callable[[Sequence[str]], np.ndarray]
"""Query texts to scores, float32 (queries, documents); higher is more similar."""


class Teacher(Protocol):
    """Whoever scores candidates. `scorer` reads the corpus once.

    `floor` is a score that a document must exceed to be a candidate at all (BM25: 0, no
    common word); None where every document is one.
    """

    name: str
    fingerprint: str
    floor: float | None

    def scorer(self, texts: Sequence[str]) -> Scorer: ...


@dataclass(frozen=True)
class Candidates:
    """One teacher's candidates of every query, and the scores of its positives.

    table: query_id, document_id, score, rank (1 is the most similar of the corpus;
    labelled positives keep their place in it). positives: query_id, document_id, score,
    rank, scored directly, wherever they rank.
    """

    table: pd.DataFrame
    positives: pd.DataFrame
    teacher: str
    fingerprint: str

    def __len__(self) -> int:
        return len(self.table)

    def located(self, queries: pd.Index, documents: pd.Index) -> Located:
        """The same as places in the ids given; LabError for an id not among them."""
        table, labelled = self.table, self.positives
        query = places(queries, table["query_id"], "query")
        order = np.lexsort((table["rank"].to_numpy(), query))
        positive_query = places(queries, labelled["query_id"], "query")
        first = np.argsort(positive_query, kind="stable")
        return Located(
            query=query[order],
            document=places(documents, table["document_id"], "document")[order],
            score=table["score"].to_numpy(dtype=float)[order],
            rank=table["rank"].to_numpy(dtype=np.int32)[order],
            positive_query=positive_query[first],
            positive=places(documents, labelled["document_id"], "document")[first],
            positive_score=labelled["score"].to_numpy(dtype=float)[first],
        )


@dataclass(frozen=True)
class Located:
    """Candidates as numbers: one entry a candidate, by query and rank; then positives.

    query and document count the queries and documents given to `located`.
    """

    query: np.ndarray
    document: np.ndarray
    score: np.ndarray
    rank: np.ndarray
    positive_query: np.ndarray
    positive: np.ndarray
    positive_score: np.ndarray


def places(index: pd.Index, names, kind: str) -> np.ndarray:
    """Where `names` stand in `index`; LabError that names the first that does not."""
    found = index.get_indexer(pd.Index(names, dtype=index.dtype))
    if len(found) and found.min() < 0:
        name = list(names)[int(found.argmin())]
        raise LabError(
            f"{kind} {name!r} is not among the {kind} texts given: the candidate table "
            "belongs to other texts, search again"
        )
    return found


def digest(*parts: object) -> str:
    """Short hex digest of JSON-able parts."""
    text = json.dumps(parts, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def top_k(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Columns and values of the k highest scores a row; both (rows, k), best first.

    Equal scores are taken in column order. `torch.topk` alone leaves the choice among
    equals open, so a table would depend on the block size and the library.
    """
    k = min(k, scores.shape[1])
    values, columns = (
        part.numpy() for part in torch.topk(torch.from_numpy(scores), k, dim=1)
    )
    order = np.lexsort((columns, -values), axis=1)
    columns = np.take_along_axis(columns, order, axis=1)
    tied = np.flatnonzero((scores >= values[:, -1:]).sum(axis=1) > k)
    for row in tied:
        columns[row] = np.argsort(-scores[row], kind="stable")[:k]
    return columns, np.take_along_axis(scores, columns, axis=1)


@dataclass(frozen=True)
class Search:
    """Exact search of `queries` in `corpus`, in blocks of queries under `budget` bytes.

    queries: id to text. corpus: columns id, text. positives: query id to the ids of its
    labelled positives. Raises LabError for an empty corpus, repeated document ids, a
    query without a positive, or a positive that is not in the corpus.
    """

    teacher: Teacher
    queries: Mapping[str, str]
    corpus: pd.DataFrame
    positives: Mapping[str, Sequence[str]]
    depth: int
    budget: int = BYTES

    def __post_init__(self) -> None:
        _check(self.queries, self.corpus, self.positives, self.depth)
        object.__setattr__(self, "_ids", self.corpus["id"].to_numpy(dtype=object))
        object.__setattr__(self, "_index", pd.Index(self.corpus["id"]))
        object.__setattr__(self, "_scorer", [])

    @property
    def fingerprint(self) -> str:
        """Names everything that the table depends on."""
        return digest(
            self.teacher.fingerprint,
            list(self.queries.items()),
            self.corpus["id"].tolist(),
            self.corpus["text"].tolist(),
            [(query, list(self.positives[query])) for query in self.queries],
            self.depth,
        )

    def candidates(self) -> Candidates:
        """The `depth` best documents of each query, and the scores of its positives."""
        tables, labelled = [], []
        for queries, scores in self._blocks(list(self.queries)):
            columns, values = top_k(scores, self.depth)
            ranks = np.broadcast_to(np.arange(1, columns.shape[1] + 1), columns.shape)
            above = values > (
                -np.inf if self.teacher.floor is None else self.teacher.floor
            )
            rows = np.broadcast_to(np.arange(len(queries))[:, None], columns.shape)
            tables.append(
                self._frame(
                    queries, rows[above], columns[above], values[above], ranks[above]
                )
            )
            labelled.append(self._positives(queries, scores))
        return Candidates(
            pd.concat(tables, ignore_index=True),
            pd.concat(labelled, ignore_index=True),
            self.teacher.name,
            self.fingerprint,
        )

    def deepen(self, candidates: Candidates, needs: pd.DataFrame) -> Candidates:
        """Add, for queries that ran out, the next documents below their ceiling.

        needs: query_id and ceiling (several rows of a query count by the highest).
        This is what masking before the cut asks for: a query whose whole table lies
        above its ceiling still gets the `depth` best documents under it. Documents
        that are in the table already are not repeated; ranks stay those of the corpus.
        """
        ceilings = needs.groupby("query_id", sort=False)["ceiling"].max()
        known = candidates.table.groupby("query_id", sort=False)["document_id"]
        known = {
            name: self._index.get_indexer(ids)
            for name, ids in known
            if name in ceilings.index
        }
        floor = -np.inf if self.teacher.floor is None else self.teacher.floor
        added = []
        for queries, scores in self._blocks(list(ceilings.index)):
            parts = [
                self._below(scores[row], ceilings[query], floor, known.get(query, []))
                for row, query in enumerate(queries)
            ]
            row = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
            column, rank = np.concatenate(parts).T
            added.append(self._frame(queries, row, column, scores[row, column], rank))
        table = pd.concat([candidates.table, *added], ignore_index=True)
        places = {query: place for place, query in enumerate(self.queries)}
        table = table.sort_values(
            ["query_id", "rank"],
            key=lambda column: (
                column.map(places) if column.name == "query_id" else column
            ),
            ignore_index=True,
        )
        return replace(candidates, table=table)

    def _below(self, scores, ceiling: float, floor: float, known) -> np.ndarray:
        """Places and ranks (new, 2) of the best documents between floor and ceiling."""
        order = np.argsort(-scores, kind="stable")
        value = scores[order]
        new = (value < ceiling) & (value > floor) & ~np.isin(order, known)
        rank = np.flatnonzero(new)[: self.depth]
        return np.stack([order[rank], rank + 1], axis=1)

    def _blocks(self, queries: list[str]) -> Iterator[tuple[list[str], np.ndarray]]:
        if not self._scorer:
            self._scorer.append(self.teacher.scorer(self.corpus["text"].tolist()))
        size = max(1, self.budget // (4 * len(self.corpus)))
        for start in range(0, len(queries), size):
            block = queries[start : start + size]
            scores = self._scorer[0]([self.queries[name] for name in block])
            scores = np.ascontiguousarray(scores, dtype=np.float32)
            if np.isnan(scores).any():
                raise LabError(
                    f"teacher {self.teacher.name!r} gave scores that are not numbers: "
                    "check its weights"
                )
            yield block, scores

    def _frame(self, queries, rows, columns, scores, ranks) -> pd.DataFrame:
        names = np.array(queries, dtype=object)
        return pd.DataFrame(
            {
                "query_id": pd.Series(names[rows], dtype="str"),
                "document_id": pd.Series(self._ids[columns], dtype="str"),
                "score": scores.astype(np.float32),
                "rank": ranks.astype(np.int32),
            }
        )

    def _positives(self, queries: list[str], scores: np.ndarray) -> pd.DataFrame:
        names = [self.positives[query] for query in queries]
        rows = np.repeat(np.arange(len(queries)), [len(ids) for ids in names])
        columns = self._index.get_indexer([name for ids in names for name in ids])
        own = scores[rows, columns]
        everyone = scores[rows]
        earlier = np.arange(scores.shape[1]) < columns[:, None]
        ahead = (everyone > own[:, None]) | ((everyone == own[:, None]) & earlier)
        return self._frame(queries, rows, columns, own, ahead.sum(axis=1) + 1)


def search_stored(path: str | Path, search: Search) -> Candidates:
    """The candidates in the file `path` if `search` would give the same, else anew."""
    if Path(path).is_file():
        try:
            return read(path, search.fingerprint)
        except LabError:
            pass  # other inputs or damaged: the search below replaces it
    found = search.candidates()
    write(path, found)
    return found


def write(path: str | Path, candidates: Candidates) -> None:
    """Write candidates and positives as one parquet file that carries the fingerprint.

    Column `kind` tells `candidate` rows from `positive` rows.
    """
    both = pd.concat(
        [
            candidates.table.assign(kind="candidate"),
            candidates.positives.assign(kind="positive"),
        ]
    )
    table = pa.Table.from_pandas(both, preserve_index=False)
    about = {"teacher": candidates.teacher, "fingerprint": candidates.fingerprint}
    table = table.replace_schema_metadata(
        {**(table.schema.metadata or {}), b"candidates": json.dumps(about).encode()}
    )
    with atomic(path) as temporary:
        pq.write_table(table, temporary)


def read(path: str | Path, fingerprint: str | None = None) -> Candidates:
    """Read a candidate table.

    Raises LabError where the file is missing, damaged, no candidate table, or was made
    from other inputs than `fingerprint` names.
    """
    path = Path(path)
    if not path.is_file():
        raise LabError(f"{path} does not exist: search the candidates first")
    try:
        table = pq.read_table(path)
        about = json.loads(table.schema.metadata[b"candidates"])
        both = table.to_pandas()
        kind = both.pop("kind")
    except (OSError, ValueError, KeyError, TypeError, pa.ArrowException) as error:
        reason = str(error).splitlines()[0]
        raise LabError(
            f"{path} is not a whole candidate table ({reason}): delete it and search "
            "again"
        ) from None
    if fingerprint is not None and about["fingerprint"] != fingerprint:
        raise LabError(
            f"{path} was made by another teacher or from other texts (fingerprint "
            f"{about['fingerprint'][:8]}, expected {fingerprint[:8]}): delete it and "
            "search again"
        )
    return Candidates(
        both[kind == "candidate"].reset_index(drop=True),
        both[kind == "positive"].reset_index(drop=True),
        about["teacher"],
        about["fingerprint"],
    )


def _check(queries, corpus: pd.DataFrame, positives, depth: int) -> None:
    missing = {"id", "text"} - set(corpus.columns)
    if missing:
        raise LabError(f"the corpus lacks the column {min(missing)!r}")
    if corpus.empty:
        raise LabError("the corpus is empty: there is nothing to mine from")
    if not queries:
        raise LabError("there are no queries to mine for")
    if depth < 1:
        raise LabError(f"candidate depth is {depth}: it must be at least 1")
    repeated = corpus["id"][corpus["id"].duplicated()]
    if len(repeated):
        raise LabError(f"document id {repeated.iloc[0]!r} stands twice in the corpus")
    known = set(corpus["id"])
    for query in queries:
        if not positives.get(query):
            raise LabError(f"query {query!r} has no labelled positive: give it one")
        for name in positives[query]:
            if name not in known:
                raise LabError(
                    f"positive {name!r} of query {query!r} is not in the corpus: add "
                    "the document or drop the label"
                )
