"""The plots of pages 01 and 02."""

import numpy as np
import pandas as pd
import pytest
from plots.support import check, frame, texts

from nbutils.core.records import RUNGS
from nbutils.core.settings import DATA
from nbutils.plots import synthesis


def test_passages_stand_at_their_angle_and_in_their_order():
    rows = ("near", 0.8, 0), ("label", 0.5, 1), ("far", -0.1, 0)
    plot = synthesis.fan(frame("name cosine gain", *rows))
    plane, ranking = check(plot, "near 0.80, label 0.50, far -0.10.").axes
    tips = [m.get_xydata()[0] for m in plane.lines if m.get_marker() != "None"]
    assert [tip[1] for tip in tips] == pytest.approx([0.8, 0.5, -0.1])
    assert [np.hypot(*tip) for tip in tips] == pytest.approx([1, 1, 1])
    assert texts(ranking.get_yticklabels()) == ["1 near", "2 label", "3 far"]
    worth = [bar.get_width() for bar in ranking.patches]
    assert worth == pytest.approx([1, 1 / np.log2(3), 0.5])
    filled = [bar.get_facecolor()[:3] != (1, 1, 1) for bar in ranking.patches]
    assert filled == [False, True, False]  # what answers


def test_the_map_of_papers_shows_and_tells_every_part_once():
    parts = {"tasks\npage 01": ["five kinds", ""], "scores\npage 06": ["MTEB", "BEIR"]}
    told = "One: five kinds (tasks page 01), MTEB (scores page 06); Two: BEIR (scores"
    papers = pd.DataFrame(parts, index=["One", "Two"])
    shown = texts(check(synthesis.papers_map(papers), told).axes[0].texts)
    wanted = [*parts, "One", "Two", "five kinds", "MTEB", "BEIR"]
    assert sorted(filter(None, shown)) == sorted(wanted)


def test_tasks_have_shares_with_intervals():
    own = {"x": range(8), "y": range(8), "family": 4 * ["health", "home"]}
    own |= {"group": 4 * ["sts"] + 4 * ["long-long"], "near_family": "health"}
    near = 4 * ["sts"] + 2 * ["long-long"] + 2 * ["sts"]
    tasks = pd.DataFrame({**own, "near_group": near})
    shares = ("same family for 50% (", "same group for 75% (")
    check(synthesis.task_map(tasks), "8 brainstormed tasks", *shares)


def test_costs_and_single_ladders_are_told_with_their_numbers():
    rows = ("a", "live", 7.0), ("b", "live", 0.5), ("a", "batch file", 3.5)
    told = "in USD: live a 7.00, b 0.50; batch file a 3.50."
    check(synthesis.costs(frame("model asked cost", *rows), "USD"), told)
    rows = ("one", "P", 0.1), ("one", "N1", 0.4), ("two", "P", 0.9), ("two", "N1", 0.2)
    told = "one: N1 0.40, P 0.10; two: P 0.90, N1 0.20."
    check(synthesis.ladders(frame("example rung cosine", *rows)), told)


def test_ladder_levels_gives_each_mean_with_its_interval():
    query = zip(["query"] * 5, RUNGS, [0.37, 0.34, 0.31, 0.26, 0.18], strict=True)
    positive = zip(["positive"] * 4, RUNGS[1:], [0.8, 0.7, 0.6, 0.5], strict=True)
    rows = frame("by measure value", *query, *positive, spread="value")
    paper = pd.read_csv(DATA / "published/negative_matters_level_cosine.csv")
    told = "N4 0.18 (0.13 to 0.23); to the positive N1 0.80 (0.75 to 0.85)"
    told = "to the query P 0.37 (0.32 to 0.42), N1", told, "by 0.09 from N1 to N4"
    (axis,) = check(synthesis.ladder_levels(rows, paper), *told).axes
    assert texts(axis.get_xticklabels()) == list(RUNGS)
    assert list(axis.lines[0].get_xdata()) == [1, 2, 3, 4]  # the paper's


def test_ladder_shares_names_every_part_and_no_winner():
    rows = [("sts", "P above N1", 0.5), ("long-long", "P above N1", 0.7)]
    rows += [("sts", "monotone", 0.1), ("long-long", "monotone", 0.2)]
    table = frame("by measure value", *rows, ("sts", "inversions", 3), spread="value")
    above = "P above N1: sts 50% (45% to 55%), long-long 70% (65% to 75%)"
    order = "monotone: sts 10% (5% to 15%), long-long 20% (15% to 25%)"
    plot = synthesis.ladder_shares(table, "By group")
    check(plot, f"By group, share of examples. {above}; {order}.")


def test_leaks_have_their_intervals():
    rows = [("N1", "words", 0.6), ("N4", "words", 0.8), ("N1", "length", 0.3)]
    told = "by words, 0.5 is no leak: N1 0.60 (0.55 to 0.65), N4 0.80 (0.75 to 0.85)"
    plot = synthesis.text_only_leak(frame("set features auc", *rows, spread="auc"))
    low, high = check(plot, told).axes[0].get_xlim()
    assert low < 0.3 and high > 1  # a leak the other way, and a perfect one
