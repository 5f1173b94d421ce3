"""Intervals: how surely a mean or a difference is known.

All are 95 % percentile bootstrap intervals over independent units.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.stats import sem
from scipy.stats import t as student_t

from nbutils.core.errors import LabError


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
    before: np.ndarray,
    after: np.ndarray,
    *,
    units: Sequence[str] | None = None,
    samples: int = 2000,
    seed: int = 0,
) -> dict[str, float]:
    """Mean of after − before with its 95 % interval.

    Arrays are (queries,) or (seeds, queries), paired by position. `units` names what
    each query belongs to (its task, say): units are drawn with replacement, because
    queries of one task are alike. With several seeds the interval also covers a new
    seed: it is widened to the t interval of the seeds' means where that is wider,
    because a bootstrap of three to five seeds is too narrow. Returns mean, low, high,
    and `distinguishable` (1.0 where the interval leaves out zero).
    """
    gain = np.atleast_2d(np.asarray(after, float) - np.asarray(before, float))
    if gain.size == 0 or not np.isfinite(gain).all():
        raise LabError("a paired comparison needs finite scores of the same queries")
    low, high = _cluster_bootstrap(gain.mean(0), units, samples, seed)
    mean = float(gain.mean())
    if len(gain) > 1:
        seeds = gain.mean(1)
        half = student_t.ppf(0.975, len(seeds) - 1) * sem(seeds)
        low, high = min(low, mean - half), max(high, mean + half)
    return {
        "mean": mean,
        "low": float(low),
        "high": float(high),
        "distinguishable": float(low > 0 or high < 0),
    }


def _cluster_bootstrap(values, units, samples: int, seed: int) -> tuple[float, float]:
    """95 % limits of the mean of `values` when whole units are drawn."""
    names = np.arange(len(values)) if units is None else np.asarray(units)
    _, unit = np.unique(names, return_inverse=True)
    count = unit.max() + 1
    draw = np.random.default_rng(seed)
    drawn = draw.multinomial(count, np.full(count, 1 / count), size=samples)
    sums = drawn @ np.bincount(unit, values)
    sizes = drawn @ np.bincount(unit)
    low, high = np.percentile(sums / sizes, [2.5, 97.5])
    return float(low), float(high)


def unit_of(query_id: str) -> str:
    """The independent unit of a recorded query: its task, or an item by itself."""
    return query_id.rsplit("/", 1)[0] if "/mgh/" in query_id else query_id


def in_words(difference: Mapping[str, float], unit: str = "") -> str:
    """`+0.051 [0.032, 0.070]`, and "not distinguishable here" where it is not."""
    text = (
        f"{difference['mean']:+.3f}{unit} "
        f"[{difference['low']:+.3f}, {difference['high']:+.3f}]"
    )
    return (
        text if difference["distinguishable"] else f"{text}: not distinguishable here"
    )
