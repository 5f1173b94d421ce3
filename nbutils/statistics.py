"""Intervals: how surely a mean or a difference is known.

All are 95 % percentile bootstrap intervals over independent units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from nbutils.errors import LabError


def interval(
    values: Sequence[float], samples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Mean of `values` with its 95 % percentile bootstrap interval (mean, low, high).

    Resamples the values, so each should be one independent unit (an example, a task).
    """
    values = np.asarray(values, dtype=float)
    draw = np.random.default_rng(seed)
    drawn = draw.integers(len(values), size=(samples, len(values)))
    means = values[drawn].mean(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(values.mean()), float(low), float(high)


def paired_difference(
    before: np.ndarray, after: np.ndarray, *, samples: int = 2000, seed: int = 0
) -> dict[str, float]:
    """Mean of after − before with its 95 % bootstrap interval.

    Arrays are (queries,) or (seeds, queries), paired by position. With seeds, both
    seeds and queries are drawn with replacement, so that the interval speaks of a new
    seed on new queries. Returns mean, low, high, and `distinguishable` (1.0 where the
    interval leaves out zero).
    """
    gain = np.atleast_2d(np.asarray(after, float) - np.asarray(before, float))
    if gain.size == 0 or not np.isfinite(gain).all():
        raise LabError("a paired comparison needs finite scores of the same queries")
    rng = np.random.default_rng(seed)
    seeds, queries = gain.shape
    means = np.empty(samples)
    for k in range(samples):
        rows = rng.integers(seeds, size=seeds)
        columns = rng.integers(queries, size=queries)
        means[k] = gain[np.ix_(rows, columns)].mean()
    low, high = np.percentile(means, [2.5, 97.5])
    return {
        "mean": float(gain.mean()),
        "low": float(low),
        "high": float(high),
        "distinguishable": float(low > 0 or high < 0),
    }


def in_words(difference: Mapping[str, float], unit: str = "") -> str:
    """`+0.051 [0.032, 0.070]`, and "not distinguishable here" where it is not."""
    text = (
        f"{difference['mean']:+.3f}{unit} "
        f"[{difference['low']:+.3f}, {difference['high']:+.3f}]"
    )
    return (
        text if difference["distinguishable"] else f"{text}: not distinguishable here"
    )
