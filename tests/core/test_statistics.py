"""Intervals: the one bootstrap, means, shares, paired differences."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from nbutils.core import LabError, statistics


def test_bootstrap_is_scipys_over_units():
    draw = np.random.default_rng(0)
    sums = np.stack([draw.binomial(4, 0.3, 200), np.full(200, 4)], axis=1)
    found = statistics.bootstrap(statistics.ratio, sums, samples=4000)
    known = scipy.stats.bootstrap(
        tuple(sums.T),
        lambda a, b, axis=-1: a.sum(axis=axis) / b.sum(axis=axis),
        paired=True,
        vectorized=True,
        method="percentile",
        n_resamples=4000,
        rng=1,
    ).confidence_interval
    assert found[0] == sums[:, 0].sum() / sums[:, 1].sum()
    assert found[1:] == pytest.approx(tuple(known), abs=0.004)


def test_interval_of_a_mean_covers_it_and_whole_units_widen_it():
    draw = np.random.default_rng(1)
    hits = 0
    for seed in range(60):
        _, low, high = statistics.interval(draw.normal(1, 1, 60), 400, seed)
        hits += low <= 1 <= high
    assert hits >= 52
    values = np.repeat(draw.normal(0, 1, 20), 10)
    units = np.repeat([f"task {i}" for i in range(20)], 10)
    single, whole = (
        statistics.interval(values),
        statistics.interval(values, 2000, 0, units),
    )
    assert whole[0] == pytest.approx(single[0])
    assert whole[2] - whole[1] > 2 * (single[2] - single[1])


def test_draws_without_a_finite_value_do_not_count():
    sums = np.array([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    assert statistics.bootstrap(statistics.ratio, sums) == (1.0, 1.0, 1.0)
    assert np.isnan(statistics.bootstrap(statistics.ratio, sums[1:])).all()
    assert np.isnan(statistics.interval([])).all()


def test_the_identity_gives_how_often_each_unit_was_drawn():
    values = np.array([1.0, 2.0, 6.0])
    mean = statistics.bootstrap(lambda drawn: drawn @ values / 3, np.eye(3))
    assert mean == pytest.approx(statistics.interval(values))


def test_paired_difference_covers_and_says_so():
    draw = np.random.default_rng(0)
    before = draw.uniform(size=300)
    better = statistics.paired_difference(before, before + 0.05)
    assert better["mean"] == pytest.approx(0.05) and better["distinguishable"] == 1.0
    assert statistics.in_words(better) == "+0.050 [+0.050, +0.050]"
    noise = statistics.paired_difference(before, before + draw.normal(0, 0.3, 300))
    assert noise["low"] < 0 < noise["high"] and not noise["distinguishable"]
    assert statistics.in_words(noise).endswith(": not distinguishable here")
    with pytest.raises(LabError, match="finite scores"):
        statistics.paired_difference([0.0], [np.nan])


def test_several_seeds_cover_a_new_seed():
    before, shifts = np.zeros((3, 200)), np.array([[0.0], [0.1], [0.2]])
    found = statistics.paired_difference(before, before + shifts)
    half = 4.3027 * 0.1 / np.sqrt(3)
    assert (found["low"], found["high"]) == pytest.approx(
        (0.1 - half, 0.1 + half), 1e-3
    )
