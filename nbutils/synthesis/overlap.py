"""Texts that repeat others, exactly or nearly, and training texts that leak."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import CountVectorizer

from nbutils.core.records import Record, Rejection
from nbutils.core.text import normalise, words

BLOCK = 2048  # texts that are compared with all earlier ones at once


def shingles(text: str, n: int = 3) -> list[str]:
    """The word n-grams of a text; all of it where it has fewer words."""
    found = words(text)
    return [" ".join(found[i : i + n]) for i in range(max(1, len(found) - n + 1))]


def repeats(texts: Sequence[str]) -> np.ndarray:
    """For each text the place of the first that equals it but for its form, or -1."""
    first: dict[str, int] = {}
    found = [first.setdefault(normalise(text), n) for n, text in enumerate(texts)]
    return np.where(np.array(found) < np.arange(len(texts)), found, -1)


def near_duplicates(texts: Sequence[str], least: float) -> np.ndarray:
    """For each text the place of the first kept one that it nearly repeats, or -1.

    Near: the Jaccard overlap of their word 3-grams is at least `least` (Broder 1997).
    A text that repeats an earlier one is not kept, so nothing is compared with it.
    """
    repeats = np.full(len(texts), -1)
    if not len(texts):
        return repeats
    counter = CountVectorizer(analyzer=shingles, binary=True)
    grams = counter.fit_transform(texts).astype(np.int32).tocsr()
    sizes = np.asarray(grams.sum(axis=1)).ravel()
    for start in range(0, len(texts), BLOCK):
        rows = slice(start, start + BLOCK)
        common = (grams[rows] @ grams[: rows.stop].T).tocoo()
        row, other = common.row + start, common.col
        union = sizes[row] + sizes[other] - common.data
        near = (common.data >= least * union) & (other < row)
        for one, earlier in sorted(zip(row[near], other[near], strict=True)):
            if repeats[one] < 0 and repeats[earlier] < 0:
                repeats[one] = earlier
    return repeats


def without(
    records: Sequence[Record], first: np.ndarray, reason: str
) -> tuple[list, list[Rejection]]:
    """The records that repeat none, and for the others which one they repeat.

    first: per record the place of the one that it repeats, or -1.
    """
    pairs = list(zip(records, first, strict=True))
    return [record for record, n in pairs if n < 0], [
        Rejection(id=record.id, reason=reason, detail=f"repeats {records[n].id}")
        for record, n in pairs
        if n >= 0
    ]


def shared_runs(
    texts: Mapping[str, str], evaluation: Mapping[str, str], n: int = 12
) -> pd.DataFrame:
    """Every text that shares a run of `n` words with an evaluation text: a leak.

    Texts map ids to texts. One row a pair and its first shared run: id,
    evaluation_id, run. Texts of fewer than `n` words are compared whole.
    """
    owners: dict[str, list[str]] = defaultdict(list)
    for name, text in evaluation.items():
        for run in dict.fromkeys(shingles(text, n)):
            owners[run].append(name)
    rows = [
        (name, other, run)
        for name, text in texts.items()
        for run in filter(None, shingles(text, n))
        for other in owners.get(run, ())
    ]
    table = pd.DataFrame(rows, columns=["id", "evaluation_id", "run"])
    return table.drop_duplicates(["id", "evaluation_id"], ignore_index=True)
