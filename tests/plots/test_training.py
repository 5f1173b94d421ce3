"""The plots of page 05."""

import numpy as np
import pandas as pd
from plots.support import check, frame, texts

from nbutils.plots import training


def test_tiles_hold_a_sign_each_and_are_counted():
    panels = {
        "direct": pd.DataFrame([["s", "s"], ["r", None]], ["first", "second"], [1, 2]),
        "hybrid": pd.DataFrame([["s", "r"], ["s", "r"]], ["first", "second"], [1, 2]),
    }
    plot = training.tiles(panels, {"s": "+", "r": "r"}, "negative", "query")
    told = "Tiles of query by negative. direct: 2 s, 1 r; hybrid: 2 s, 2 r."
    left, right = check(plot, told).axes
    assert texts(left.texts) == ["+", "+", "r", ""]
    assert texts(left.get_yticklabels()) == ["first", "second"]
    assert left.yaxis_inverted(), "the first row stands at the top"
    colours = left.collections[0].get_array()
    assert colours.tolist() == [[0, 0], [1, None]]  # what is empty has no colour
    assert texts(right.get_legend().get_texts()) == ["+ s", "r"]


def test_the_gradient_is_told_at_the_hardest():
    rows = [(1.0, 1, 0.6), (1.0, 2, 0.4), (0.1, 1, 0.9), (0.1, 2, 0.1)]
    plot = training.gradient_shares(frame("temperature rank share", *rows))
    (axis,) = check(plot, "the hardest negative, τ = 1.0: 60%, τ = 0.1: 90%.").axes
    assert texts(axis.get_legend().get_texts()) == ["τ = 1.0", "τ = 0.1"]


def test_levels_are_counted_beside_the_weights():
    plot = training.nf4_levels(np.array([-0.9, 0.1, 0.2, 0.0]), np.array([-1, 0, 1]))
    (axis,) = check(plot, "75% of the weights", "and 1 of NF4's 3 levels").axes
    lines = axis.collections[-1].get_segments()
    assert [segment[0][0] for segment in lines] == [-1, 0, 1]


def test_a_run_has_an_axis_for_each_number_and_tells_every_level():
    rows = [(1, "N4", 2, 1), (2, "N4", 1, 2), (3, "N1", 0.5, 1), (4, "N1", 0.3, 1)]
    steps = frame("step level loss gradient_norm", *rows)
    rows = [(0, "start", 0.4, 0.5), (4, "N4", 0.45, 0.48), (8, "N1", 0.5, 0.51)]
    plot = training.long_run(steps, frame("step level ndcg beats_n1", *rows), 100)
    loss = "4 steps; mean loss by level: N4 1.50, N1 0.40"
    ndcg = "NDCG@10: start 0.400, N4 0.450, N1 0.500"
    above = "above N1: start 0.500, N4 0.480, N1 0.510"
    axes = check(plot, loss, ndcg, above).axes
    labels = texts(axis.yaxis.label for axis in axes)
    assert labels[:2] == ["InfoNCE loss", "norm of the gradient"]
    assert labels[2:] == ["NDCG@10", "share with P above N1"]
    whiskers = axes[3].containers[0].lines[2][0].get_segments()
    assert np.allclose(whiskers[0][:, 1], [0.45, 0.55])  # one standard error


def test_studies_are_lines_in_order_with_their_verdicts():
    rows = ("bits: none − nf4", 0.02, "not told apart"), ("b − a", 0.3, "told apart")
    plot = training.studies(frame("comparison mean verdict", *rows, spread="mean"))
    told = "bits: none − nf4 +0.020 (-0.030 to +0.070), b − a +0.300 (+0.250 to +0.350)"
    (axis,) = check(plot, told).axes
    assert texts(axis.get_yticklabels()) == ["bits: none − nf4", "b − a"]
    assert texts(axis.texts) == ["not told apart", "told apart"]
