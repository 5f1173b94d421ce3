"""Retrieval sets in BEIR's format: corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv.

Lines of the two files hold `_id`, `text` and perhaps `title`; the table has the columns
query-id, corpus-id and score, and a score above 0 marks a positive.
"""

from __future__ import annotations

import csv
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from nbutils.errors import LabError
from nbutils.records import read_jsonl


@dataclass(frozen=True)
class RetrievalSet:
    """One split: queries (id to text), corpus (columns id, text), positives (ids)."""

    name: str
    queries: dict[str, str]
    corpus: pd.DataFrame
    positives: dict[str, list[str]]


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
