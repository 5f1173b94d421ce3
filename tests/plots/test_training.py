"""The plots of page 05."""

import numpy as np
import pandas as pd
import pytest
from plots.support import check, frame, published, texts

from nbutils.plots import training


def test_a_run_has_an_axis_for_each_score_and_tells_every_level():
    rows = [(1, "N4", 2, 1), (2, "N4", 1, 2), (3, "N1", 0.5, 1), (4, "N1", 0.3, 1)]
    steps = frame("step level loss gradient_norm", *rows)
    check(training.training_curves(steps), "4 steps", "N4 1.50, N1 0.40")
    rows = [(0, "start", 0.4, 0.52), (4, "N4", 0.45, 0.48), (8, "N1", 0.5, 0.51)]
    plot = training.learning_curve(frame("step level ndcg beats_n1", *rows))
    ndcg = "NDCG@10: start 0.400, N4 0.450, N1 0.500"
    figure = check(plot, ndcg, "above N1: start 0.520, N4 0.480, N1 0.510")
    assert [axis.get_ylabel()[:7] for axis in figure.axes] == ["NDCG@10", "share w"]
    rows = (
        (variant, seed, step, base + step / 100)
        for variant, base in (("curriculum", 0.4), ("reverse", 0.5))
        for seed in (0, 1)
        for step in (0, 6, 12)
    )
    told = "mean of 2 seeds: reverse 0.620, curriculum 0.520"
    check(training.development(frame("variant seed step ndcg", *rows)), told)


def test_gradient_norms_tell_the_variance_within_runs():
    runs = [("direct", 0, 1, 3), ("direct", 1, 11, 13), ("hybrid", 0, 2, 3)]
    rows = [(variant, seed, n) for variant, seed, *norms in runs for n in norms]
    steps = frame("variant seed gradient_norm", *rows)
    told = "direct 2 (2 to 2), hybrid 0.5 (0.5 to 0.5)"  # not over both runs' steps
    printed = "SyNeg prints V: direct 188.5, hybrid 155.23"
    plot = training.gradient_norms(steps, published("syneg_gradient_variance"))
    assert check(plot, told, printed).axes[0].get_title() == "here, 1 to 2 seeds"


def compared(baseline: str, other: str, apart: str = "") -> pd.DataFrame:
    """What `evaluation.compare` returns, where `apart` alone is told apart."""
    rows = [("untrained", 1, 0.1, -0.6, -0.7, -0.5, 1.0)]
    rows += [(other, 2, 0.5, -0.2, -0.3, 0.1, 0.0)]
    rows += [(apart, 2, 0.5, -0.2, -0.3, -0.1, 1.0)] if apart else []
    rows += [(baseline, 3, 0.7, *[np.nan] * 4)]
    return frame("variant seeds mean difference low high distinguishable", *rows)


@pytest.mark.parametrize(
    "table, columns, order, printed",
    [
        ("negative_matters_strategy", ("strategy", "mteb_subset_score"),
         ["curriculum", "fixed-1", "reverse"], "curriculum: 71.7, fixed-3: 70.6"),
        ("syneg_mixing", ("mixing", "ndcg_at_10_percent", "dataset"),
         ["retrieved", "synthetic", "hybrid"], "not trained: 68.67, synthetic: 67.97"),
        ("syneg_ratio", ("ratio", "score"),
         ["0.2", "0.7", "2.0"], "0.5: 0.446, 0.7: 0.453"),
    ],
)  # fmt: skip
def test_a_study_stands_beside_its_paper_in_its_order(table, columns, order, printed):
    baseline, other, apart = order
    ours, theirs = compared(baseline, other, apart), published(table)
    plot = training.study("setting", ours, theirs, baseline, *columns)
    told = f"distinguishable from {baseline} by their difference: {apart}: -0.200."
    seeds = "by setting, 2 to 3 seeds: "
    figure = check(plot, seeds, f"{baseline}: 0.700", told, printed)
    left, right = figure.axes
    assert texts(left.get_yticklabels()) == order
    assert f"difference from {baseline}" in left.get_xlabel()
    marks = np.concatenate([line.get_xdata() for line in left.lines])
    assert 0.7 not in marks and -0.6 not in marks  # no means, and no untrained student
    names = texts(right.get_legend().get_texts()) if columns[2:] else []
    assert names == [name for by in columns[2:] for name in theirs[by].unique()]


def test_a_study_keeps_its_order_where_the_paper_has_none_of_its_values():
    ours, theirs = compared("0.02", "0.05"), published("syneg_temperature")
    plot = training.study("R", ours, theirs, "0.02", "model", "temperature")
    told = ("no other is distinguishable from 0.02", "BGE, best: 0.017")
    assert texts(check(plot, *told).axes[0].get_yticklabels()) == ["0.05", "0.02"]
