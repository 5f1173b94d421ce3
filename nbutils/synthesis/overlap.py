"""Texts that repeat others, exactly or nearly, and training texts that leak.

Both rules can be read and checked: a share of word 3-grams in common, and a run of
words in common.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import CountVectorizer

from nbutils.core.records import Record, Rejection
from nbutils.core.text import normalise, words

R = TypeVar("R", bound=Record)
BLOCK = 2048
"""Texts that are compared with all earlier ones at once."""


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
        order = np.lexsort((other[near], row[near]))
        for one, earlier in zip(row[near][order], other[near][order], strict=True):
            if repeats[one] < 0 and repeats[earlier] < 0:
                repeats[one] = earlier
    return repeats


def without(
    records: Sequence[R], first: np.ndarray, reason: str
) -> tuple[list[R], list[Rejection]]:
    """The records that repeat none, and for the others which one they repeat.

    first: per record the place of the one that it repeats, or -1.
    """
    kept, rejections = [], []
    for record, n in zip(records, first, strict=True):
        if n < 0:
            kept.append(record)
        else:
            detail = f"repeats {records[n].id}"
            rejections.append(Rejection(id=record.id, reason=reason, detail=detail))
    return kept, rejections


def shared_runs(
    texts: Mapping[str, str], evaluation: Mapping[str, str], n: int = 12
) -> pd.DataFrame:
    """Every text that shares a run of `n` words with an evaluation text: a leak.

    Texts map ids to texts. One row a pair and its first shared run: id,
    evaluation_id, run. Texts of fewer than `n` words are compared whole.
    """
    runs: dict[str, list[str]] = {}
    for name, text in evaluation.items():
        for run in dict.fromkeys(shingles(text, n)):
            runs.setdefault(run, []).append(name)
    first: dict[tuple[str, str], str] = {}
    for name, text in texts.items():
        for run in filter(None, shingles(text, n)):
            for other in runs.get(run, ()):
                first.setdefault((name, other), run)
    rows = [(*pair, run) for pair, run in first.items()]
    return pd.DataFrame(rows, columns=["id", "evaluation_id", "run"])
