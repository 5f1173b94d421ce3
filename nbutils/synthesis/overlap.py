"""Texts that repeat others, exactly or nearly, and training texts that leak."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from nbutils.core.text import normalise, words


def shingles(text: str, n: int = 3) -> dict[str, None]:
    """The different word n-grams of a text, in order; all of a text of fewer words."""
    found = words(text)
    starts = range(max(1, len(found) - n + 1))
    return dict.fromkeys(" ".join(found[i : i + n]) for i in starts)


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
    kept: dict[str, list[int]] = defaultdict(list)  # a 3-gram to the texts that hold it
    sizes, repeated = [], np.full(len(texts), -1)
    for place, grams in enumerate(map(shingles, texts)):
        sizes.append(len(grams))
        common = Counter(other for gram in grams for other in kept[gram])
        near = [
            other
            for other, count in common.items()
            if count >= least * (len(grams) + sizes[other] - count)
        ]
        if near:
            repeated[place] = min(near)
            continue
        for gram in grams:
            kept[gram].append(place)
    return repeated


def shared_runs(
    texts: Mapping[str, str], evaluation: Mapping[str, str], n: int = 12
) -> pd.DataFrame:
    """Every text that shares a run of `n` words with an evaluation text: a leak.

    Both map ids to texts. One row a pair and its first shared run: id, evaluation_id,
    run. Texts of fewer than `n` words are compared whole.
    """
    owners: dict[str, list[str]] = defaultdict(list)
    for name, text in evaluation.items():
        for run in shingles(text, n):
            owners[run].append(name)
    rows = [
        (name, other, run)
        for name, text in texts.items()
        for run in filter(None, shingles(text, n))
        for other in owners.get(run, ())
    ]
    table = pd.DataFrame(rows, columns=["id", "evaluation_id", "run"])
    return table.drop_duplicates(["id", "evaluation_id"], ignore_index=True)
