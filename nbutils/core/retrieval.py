"""Retrieval sets: read from BEIR's format, or made from the lab's own records.

A folder in BEIR's format holds corpus.jsonl and queries.jsonl, whose lines have `_id`,
`text` and perhaps `title`, and qrels/SPLIT.tsv with the columns query-id, corpus-id and
score; a score above 0 marks a positive.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import pandas as pd

from nbutils.core.errors import LabError
from nbutils.core.files import read_jsonl
from nbutils.core.records import GradedExample, Records, RetrievalItem, Split
from nbutils.core.text import normalise

HELD_OUT = ("held-out-tasks", "held-out-family")


@dataclass(frozen=True)
class RetrievalSet:
    """Queries with the corpus that is searched for them: what every room speaks of.

    queries: id to text. corpus: a frame with the columns id and text. By query id:
    positives, the labelled documents; planted, right answers that are not labelled;
    excluded, documents that may be no candidate of the query.
    """

    name: str
    queries: dict[str, str]
    corpus: pd.DataFrame
    positives: dict[str, list[str]]
    planted: dict[str, list[str]] = field(default_factory=dict)
    excluded: dict[str, list[str]] = field(default_factory=dict)


def read_set(folder: str | Path, split: str = "train") -> RetrievalSet:
    """The queries of a split that have a positive, with the whole corpus.

    Documents without any text are left out. Raises LabError for a file or split that is
    missing, an id that stands twice, and a query or positive that has no text.
    """
    folder = Path(folder)
    positives = _read_qrels(folder, split)
    queries = _read_texts(folder / "queries.jsonl")
    corpus = _read_texts(folder / "corpus.jsonl")
    for name, known, wanted in (
        ("queries.jsonl", queries, positives),
        ("corpus.jsonl", corpus, chain(*positives.values())),
    ):
        lost = set(wanted) - known.keys()
        if lost:
            raise LabError(
                f"{folder / name} has no text of {min(lost)!r}, which the qrels name"
            )
    queries = {query: queries[query] for query in positives}
    return RetrievalSet(folder.resolve().name, queries, _frame(corpus), positives)


def _read_qrels(folder: Path, split: str) -> dict[str, list[str]]:
    """Query id to the ids of its positives, in the file's order."""
    path = folder / "qrels" / f"{split}.tsv"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in path.parent.glob("*.tsv")))
        raise LabError(
            f"{folder} has no split {split!r} in BEIR's format: "
            f"it has {there or 'no qrels'}"
        )
    plain = {"sep": "\t", "dtype": str, "quoting": csv.QUOTE_NONE}
    try:
        table = pd.read_csv(path, keep_default_na=False, **plain)
        right = table[table["score"].astype(float) > 0].drop_duplicates()
        positives = right.groupby("query-id", sort=False)["corpus-id"].agg(list)
    except (KeyError, ValueError):
        raise LabError(
            f"{path} needs the columns query-id, corpus-id and score, separated by tabs"
        ) from None
    if positives.empty:
        raise LabError(
            f"{path} marks no positive (a score above 0): name another split"
        )
    return positives.to_dict()


def _read_texts(path: Path) -> dict[str, str]:
    """Id to text, title first, of all that have one."""
    found: dict[str, str] = {}
    packed = path.with_name(path.name + ".gz")
    for row in read_jsonl(packed if packed.is_file() else path):
        name = row.get("_id") if isinstance(row, dict) else None
        if not isinstance(name, str):
            raise LabError(f"{path}: a line has no text `_id`; it must hold _id, text")
        if name in found:
            raise LabError(f"{path}: id {name!r} stands twice")
        found[name] = "\n".join(filter(None, (row.get("title"), row.get("text"))))
    return {name: text for name, text in found.items() if text}


def _frame(documents: dict[str, str]) -> pd.DataFrame:
    return pd.DataFrame({"id": list(documents), "text": list(documents.values())})


def local_set(name: str, records: Records) -> RetrievalSet:
    """The evaluation set of split `name` (`held-out-tasks`, `held-out-family`, `dev`).

    Document ids are blind; planted are an item's other right answers. LabError if no
    graded example is in the split under these settings.
    """
    own = [r for r in (*records.graded, *records.items) if r.split == name]
    if not any(isinstance(record, GradedExample) for record in own):
        raise LabError(
            f"no recorded example is in split {name!r}: check families and max_items"
        )
    texts: dict[str, str] = {}
    positives, planted = {}, {}
    for record in own:
        documents = {blind(i): text for i, text in record.documents().items()}
        texts |= documents
        first, *others = documents
        positives[record.id] = [first]
        if isinstance(record, RetrievalItem):
            planted[record.id] = others
    queries = {record.id: record.query for record in own}
    return RetrievalSet(name, queries, _frame(texts), positives, planted)


def ladder_ids(graded: Iterable[GradedExample]) -> dict[str, list[str]]:
    """Graded query id to the blind ids of its documents, P then N1 to N4."""
    return {e.id: [blind(i) for i in e.documents()] for e in graded}


def blind(document_id: str) -> str:
    """A document id that does not tell positives from negatives.

    trec_eval breaks ties by id; an id that ends in P would win every tie over one
    that ends in N, which flatters BM25, whose scores are often equal (zero).
    """
    return hashlib.sha256(document_id.encode()).hexdigest()[:16]


def passages(
    items: Iterable[RetrievalItem],
    graded: Iterable[GradedExample],
    splits: Iterable[Split],
) -> pd.DataFrame:
    """The passages of some splits as a table: id, text, family, kind, ids.

    `kind` is the last part of the id: P0 labelled, P1 and P2 planted, P and N1 to N4
    of a graded example. Passages with the same text are one row under the first id;
    `ids` lists every id that the row stands for.
    """
    splits, columns = set(splits), ["id", "text", "family", "kind"]
    rows: dict[str, list] = {}
    for record in (*items, *graded):
        for name, text in record.documents().items() if record.split in splits else ():
            first = [name, text, record.family, name.rsplit("/", 1)[1], []]
            rows.setdefault(normalise(text), first)[-1].append(name)
    return pd.DataFrame(list(rows.values()), columns=[*columns, "ids"])
