"""Retrieval sets in BEIR's format: corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv.

Lines of the two files hold `_id`, `text` and perhaps `title`; the table has the columns
query-id, corpus-id and score, and a score above 0 marks a positive.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from nbutils.core.errors import LabError
from nbutils.core.files import read_jsonl
from nbutils.core.records import GradedExample, Records, RetrievalItem, Split
from nbutils.core.text import normalise


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
    positives = read_qrels(folder, split)
    queries = read_texts(folder / "queries.jsonl", positives)
    texts = read_texts(folder / "corpus.jsonl")
    for query, documents in positives.items():
        lost = next((name for name in documents if name not in texts), None)
        if lost is not None:
            raise LabError(
                f"{folder / 'corpus.jsonl'} has no text of {lost!r}, a positive of "
                f"query {query!r}: add it, or drop its line from qrels/{split}.tsv"
            )
    corpus = pd.DataFrame({"id": list(texts), "text": list(texts.values())})
    return RetrievalSet(
        folder.resolve().name, {q: queries[q] for q in positives}, corpus, positives
    )


def read_qrels(folder: str | Path, split: str) -> dict[str, list[str]]:
    """Query id to the ids of its positives, in the file's order.

    Raises LabError for a split that is missing, a table that is none, and a split
    without any positive.
    """
    path = Path(folder, "qrels", f"{split}.tsv")
    if not path.is_file():
        there = sorted(p.stem for p in path.parent.glob("*.tsv"))
        known = f"it has {', '.join(there)}" if there else "it has no qrels"
        raise LabError(f"{folder} has no split {split!r} in BEIR's format: {known}")
    positives: dict[str, list[str]] = {}
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            try:
                relevant = float(row["score"]) > 0
                query, document = row["query-id"], row["corpus-id"]
            except (KeyError, TypeError, ValueError):
                raise LabError(
                    f"{path} needs the columns query-id, corpus-id and score, "
                    "separated by tabs"
                ) from None
            if relevant:
                positives.setdefault(query, []).append(document)
    if not positives:
        raise LabError(
            f"{path} marks no positive (a score above 0): name another split"
        )
    return {query: list(dict.fromkeys(own)) for query, own in positives.items()}


def read_texts(path: Path, wanted: Collection[str] | None = None) -> dict[str, str]:
    """Id to text, title first; only of `wanted`, if given, all of which must be there.

    Raises LabError for a line without an id, an id that stands twice, and a wanted one
    without a text.
    """
    found: dict[str, str] = {}
    for row in read_jsonl(path):
        name = row.get("_id") if isinstance(row, dict) else None
        if not isinstance(name, str):
            raise LabError(f"{path}: a line has no text `_id`; it must hold _id, text")
        if wanted is not None and name not in wanted:
            continue
        if name in found:
            raise LabError(f"{path}: id {name!r} stands twice")
        parts = (row.get("title"), row.get("text"))
        found[name] = "\n".join(part for part in parts if part)
    lost = sorted(n for n in (found if wanted is None else wanted) if not found.get(n))
    if wanted is not None and lost:
        raise LabError(f"{path} has no text of {lost[0]!r}, which the qrels name")
    for name in lost:
        del found[name]
    return found


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
    corpus = pd.DataFrame({"id": list(texts), "text": list(texts.values())})
    queries = {record.id: record.query for record in own}
    return RetrievalSet(name, queries, corpus, positives, planted)


def ladder_ids(graded: Iterable[GradedExample]) -> dict[str, list[str]]:
    """Graded query id to the blind ids of its documents, P then N1 to N4."""
    return {e.id: [blind(i) for i in e.documents()] for e in graded}


def blind(document_id: str) -> str:
    """A document id that does not tell positives from negatives.

    trec_eval breaks ties by id; an id that ends in P would win every tie over one
    that ends in N, which flatters BM25, whose scores are often equal (zero).
    """
    return hashlib.sha256(document_id.encode()).hexdigest()[:16]


HELD_OUT = ("held-out-tasks", "held-out-family")


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
    wanted = set(splits)
    rows: dict[str, dict] = {}
    for record in (*items, *graded):
        if record.split not in wanted:
            continue
        for name, text in record.documents().items():
            row = rows.setdefault(
                normalise(text),
                {"id": name, "text": text, "family": record.family,
                 "kind": name.rsplit("/", 1)[1], "ids": []},
            )  # fmt: skip
            row["ids"].append(name)
    columns = ["id", "text", "family", "kind", "ids"]
    return pd.DataFrame(list(rows.values()), columns=columns)
