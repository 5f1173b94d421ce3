"""The plots of page 03."""

import numpy as np
import pandas as pd
from plots.support import check, frame, texts

from nbutils.plots import mining


def test_one_query_counts_the_planted_answers_below_each_ceiling():
    rows = [(0.7, "planted"), (0.5, "labelled"), (0.46, "planted"), (0.3, "other")]
    heights = {"abs": 0.9, "margin_pos": 0.475, "perc_pos": 0.45}
    told = (
        "Abs at 0.900 leaves 2, MarginPos at 0.475 leaves 1, PercPos at 0.450 leaves 0"
    )
    figure = check(mining.one_query(frame("score kind", *rows), heights), told)
    shown = {line.get_label(): line.get_xdata()[0] for line in figure.axes[0].lines}
    assert shown["ceiling of PercPos"] == 0.45


def test_one_query_without_a_ceiling_says_so_and_warns_of_nothing(recwarn):
    check(mining.one_query(frame("score kind", (0.3, "other")), {}), "none is drawn")
    assert not recwarn.list


def test_score_clouds_gives_the_share_below_each_ceiling():
    rows = [(f"q{n // 4}", 0.5 + n / 100, 0.2 if n % 4 else 0.9) for n in range(40)]
    cloud = frame("query_id positive_score score", *rows)
    cloud["planted"] = cloud["score"] > 0.5
    limits = {"abs": 0.7, "margin_pos": 0.95}
    lines = [(method, at, limits[method]) for method in limits for at in (0.4, 1)]
    ceilings = frame("method positive_score ceiling", *lines)
    told = ("Abs 0% (0% to 0%)", "MarginPos 100% (100% to 100%) of 10 in the tables")
    check(mining.score_clouds(cloud, ceilings), *told)
    told = "Abs none, MarginPos none of 0 in the tables"
    check(mining.score_clouds(cloud.assign(planted=False), ceilings), told)


def test_false_negative_rates_leaves_out_what_mined_nothing():
    rates = frame(
        "method selection value", ("naive", "top_k", 0.35), ("naive", "sampled", 0.3),
        ("abs", "top_k", 0.1), ("abs", "sampled", 0.2), spread="value",
    )  # fmt: skip
    told = "top k: Naive 35% (30% to 40%), Abs 10% (5% to 15%); the paper's judge"
    figure = check(mining.false_negative_rates(rates, 0.388, 0.5), told, "50% is the")
    assert {0.388, 0.5} <= {line.get_xdata()[0] for line in figure.axes[0].lines}
    rates.loc[rates["method"] == "abs", ["value", "low", "high"]] = np.nan
    check(mining.false_negative_rates(rates, 0.388, 0.5), "Naive 35% (30% to 40%); the")


def test_hardness_tradeoff_gives_the_papers_settings_with_intervals():
    grid = frame(
        "method setting rate hardness best", ("abs", 0.6, 0.1, 0.7, False),
        ("abs", 0.7, 0.2, 0.8, True), ("naive", 0.0, 0.35, 0.9, True), spread="rate",
    )  # fmt: skip
    told = "Abs, hardness 0.80: 20% (15% to 25%), Naive, hardness 0.90: 35% (30% to"
    figure = check(mining.hardness_tradeoff(grid), told)
    assert not figure.axes[0].texts  # the settings are named in the legend
    check(mining.hardness_tradeoff(grid[:0]), "none here")


def test_the_overlap_matrix_is_symmetric_and_names_its_ends():
    pairs = [("a", "b", 0.1), ("a", "b", 0.3), ("a", "c", 0.6), ("b", "c", 0.5)]
    told = "3 teachers mine: least a and b (0.20), most a and c (0.60)"
    plot = mining.overlap_matrix(frame("one other jaccard", *pairs))
    drawn = " ".join(texts(check(plot, told).axes[0].texts))
    assert drawn == "1.00 0.20 0.60 0.20 1.00 0.50 0.60 0.50 1.00"


def test_the_rank_histogram_counts_every_negative_once():
    ranks = {"naive": [2, 2, 3, 4], "shifted": [11, 30, 31, 4000]}
    rows = [(method, r, r == 2) for method, own in ranks.items() for r in own]
    plot = mining.rank_histogram(frame("method rank planted", *rows))
    first, second = check(plot, "Naive 2 (2 to 4), Shifted 30 (17 to 2809)").axes
    names = texts(second.get_xticklabels())
    assert names[14:] == ["15", "16–20", "21–30", "31–50", "51–100", "> 100"]
    whole, planted, shifted = (
        pd.Series([bar.get_height() for bar in bars], names)[lambda s: s > 0].to_dict()
        for bars in (*first.containers, second.containers[0])
    )
    assert whole == {"2": 0.5, "3": 0.25, "4": 0.25} and planted == {"2": 0.5}
    assert shifted == dict.fromkeys(["11", "21–30", "31–50", "> 100"], 0.25)


def test_student_differences_names_those_that_are_told_apart():
    rows = [("abs", 0.009, 0.0), ("untrained", -0.1, 1.0)]
    table = frame("variant difference distinguishable", *rows, spread="difference")
    told = "naive mining: untrained -0.100 (-0.150 to -0.050); not: Abs +0.009 (-0.041"
    check(mining.student_differences(table), told)
    check(mining.student_differences(table[:1]), "naive mining: none; not: Abs")
