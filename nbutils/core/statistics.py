"""95 % percentile bootstrap intervals of means, shares and differences, by units."""

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache

import numpy as np

from nbutils.core.errors import LabError


def bootstrap(
    statistic: Callable[[np.ndarray], np.ndarray],
    sums: np.ndarray,
    samples: int = 2000,
    seed: int = 0,
) -> tuple[float, float, float]:
    """A statistic of per-unit sums with its 95 % interval: (value, low, high).

    sums: (units, columns), what each independent unit adds to each column. statistic:
    totals (..., columns) to values (...), such as `ratio`. Draws where it is not finite
    do not count; nan three times where it is not over all units. A statistic that is
    none of sums takes `np.eye(units)`: its totals say how often each unit was drawn.
    """
    sums = np.asarray(sums, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = float(statistic(sums.sum(axis=0)))
        if not np.isfinite(value):
            return np.nan, np.nan, np.nan
        drawn = statistic(_times_drawn(len(sums), samples, seed) @ sums)
    low, high = np.percentile(drawn[np.isfinite(drawn)], [2.5, 97.5])
    return value, float(low), float(high)


@lru_cache(maxsize=4)
def _times_drawn(units: int, samples: int, seed: int) -> np.ndarray:
    """How often each unit is in each resample (samples, units)."""
    draw, shares = np.random.default_rng(seed), np.full(units, 1 / units)
    return draw.multinomial(units, shares, size=samples).astype(float)


def ratio(totals: np.ndarray) -> np.ndarray:
    """The first column's total over the second's: a mean, a share, a rate."""
    return totals[..., 0] / totals[..., 1]


def interval(
    values: Sequence[float],
    samples: int = 2000,
    seed: int = 0,
    units: Sequence[str] | None = None,
) -> tuple[float, float, float]:
    """Mean of `values` with its 95 % bootstrap interval: (mean, low, high).

    `units` names the independent unit of each value (its query, its task), by default
    the value itself. nan three times where there is no value.
    """
    values = np.asarray(values, dtype=float)
    names = np.arange(len(values)) if units is None else np.asarray(units)
    _, unit = np.unique(names, return_inverse=True)
    sums = np.stack([np.bincount(unit, values), np.bincount(unit)], axis=1)
    return bootstrap(ratio, sums, samples, seed)


def paired_difference(
    before: np.ndarray,
    after: np.ndarray,
    *,
    units: Sequence[str] | None = None,
    samples: int = 2000,
    seed: int = 0,
) -> dict[str, float]:
    """Mean of after − before with its 95 % interval: mean, low, high, distinguishable.

    Arrays are (queries,) or (seeds, queries), paired by position; `units` as `interval`
    has them. With several seeds the interval also covers a new seed: it is widened to
    the t interval of the seeds' means where that is wider, because a bootstrap of three
    to five seeds is too narrow. `distinguishable` is 1.0 where it leaves out zero.
    """
    gain = np.atleast_2d(np.asarray(after, float) - np.asarray(before, float))
    if gain.size == 0 or not np.isfinite(gain).all():
        raise LabError("a paired comparison needs finite scores of the same queries")
    mean, low, high = interval(gain.mean(axis=0), samples, seed, units)
    if len(gain) > 1:
        from scipy.stats import sem, t  # a slow import, and most commands need none

        seeds = gain.mean(axis=1)
        half = float(t.ppf(0.975, len(seeds) - 1) * sem(seeds))
        low, high = min(low, mean - half), max(high, mean + half)
    found = {"mean": mean, "low": low, "high": high}
    return {**found, "distinguishable": float(low > 0 or high < 0)}


def unit_of(query_id: str) -> str:
    """The independent unit of a recorded query: its task, or an item by itself."""
    return query_id.rsplit("/", 1)[0] if "/mgh/" in query_id else query_id


def in_words(difference: Mapping[str, float]) -> str:
    """`+0.051 [+0.032, +0.070]`, and "not distinguishable here" where it is not."""
    mean, low, high = (_signed(difference[name]) for name in ("mean", "low", "high"))
    told = "" if difference["distinguishable"] else ": not distinguishable here"
    return f"{mean} [{low}, {high}]{told}"


def _signed(value: float) -> str:
    """Three decimals, or one digit of what these would round to zero."""
    value = 0.0 if abs(value) < 1e-9 else value  # a sum's rounding is no value
    return f"{value:+.1g}" if 0 < abs(value) < 5e-4 else f"{value:+.3f}"
