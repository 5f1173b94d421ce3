"""Intervals: the one bootstrap, means, shares, paired differences."""

import numpy as np
import pytest
import scipy.stats
from conftest import coverage

from nbutils.core import LabError, statistics


def test_bootstrap_is_scipys_over_units():
    draw = np.random.default_rng(0)
    sums = np.stack([draw.binomial(4, 0.3, 200), np.full(200, 4)], axis=1)
    found = statistics.bootstrap(statistics.ratio, sums, samples=4000)
    known = scipy.stats.bootstrap(
        tuple(sums.T), lambda a, b, axis=-1: a.sum(axis=axis) / b.sum(axis=axis),
        paired=True, vectorized=True, method="percentile", n_resamples=4000, rng=1,
    ).confidence_interval  # fmt: skip
    assert found[0] == sums[:, 0].sum() / sums[:, 1].sum()
    assert found[1:] == pytest.approx(tuple(known), abs=0.004)


def test_draws_without_a_finite_value_do_not_count():
    sums = np.array([[1.0, 1.0], [0.0, 0.0], [0.0, 0.0]])
    assert statistics.bootstrap(statistics.ratio, sums) == (1.0, 1.0, 1.0)
    assert np.isnan(statistics.bootstrap(statistics.ratio, sums[1:])).all()
    assert np.isnan(statistics.interval([])).all()


def test_the_identity_gives_how_often_each_unit_was_drawn():
    values = np.array([1.0, 2.0, 6.0])
    mean = statistics.bootstrap(lambda drawn: drawn @ values / 3, np.eye(3))
    assert mean == pytest.approx(statistics.interval(values))


def test_intervals_cover_over_values_over_tasks_and_over_seeds():
    def single(draw):
        return statistics.interval(draw.normal(1, 1, 80), 300)

    assert 0.89 <= coverage(single, 1.0) <= 0.99 and coverage(single, 1.4) < 0.2
    tasks = np.repeat(np.arange(30), 6)

    def of_tasks(draw, units=tasks):
        values = draw.normal(size=30)[tasks] + draw.normal(size=180)
        return statistics.interval(values, 300, units=units)

    assert 0.88 <= coverage(of_tasks, 0.0) <= 0.99
    # queries of one task are no independent units
    assert coverage(lambda draw: of_tasks(draw, None), 0.0) < 0.8

    def of_seeds(draw):
        gain = draw.normal(0, 0.2, (4, 1)) + draw.normal(0, 0.05, (4, 100))
        found = statistics.paired_difference(np.zeros_like(gain), gain, samples=300)
        return found["mean"], found["low"], found["high"]

    assert coverage(of_seeds, 0.0) >= 0.9


def test_a_paired_difference_says_whether_it_can_be_told():
    draw = np.random.default_rng(0)
    before = draw.uniform(size=300)
    better = statistics.paired_difference(before, before + 0.05)
    assert better["mean"] == pytest.approx(0.05) and better["distinguishable"] == 1.0
    assert statistics.in_words(better) == "+0.050 [+0.050, +0.050]"
    noise = statistics.paired_difference(before, before + draw.normal(0, 0.3, 300))
    assert noise["low"] < 0 < noise["high"] and not noise["distinguishable"]
    assert statistics.in_words(noise).endswith(": not distinguishable here")
    near = {"mean": 0.008, "low": 0.00021, "high": 0.016, "distinguishable": 1.0}
    assert statistics.in_words(near) == "+0.008 [+0.0002, +0.016]", "no bound of zero"
    none = {**near, "mean": -7e-18}
    assert statistics.in_words(none) == "+0.000 [+0.0002, +0.016]", "a rounding is none"
    with pytest.raises(LabError, match="finite scores"):
        statistics.paired_difference([0.0], [np.nan])


def test_units_of_recorded_queries():
    assert statistics.unit_of("health/mgh/sts/2/5") == "health/mgh/sts/2"
    assert statistics.unit_of("industry/seed/07") == "industry/seed/07"
