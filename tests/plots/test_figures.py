"""Every plot is a figure and one line of text that states its numbers."""

from __future__ import annotations

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

from nbutils.core.records import LEVELS
from nbutils.plots import evaluation, mining, style, synthesis, training
from nbutils.plots.attention import (
    anchor_classes,
    attention_with_columns,
    heat_strips,
    pooling_scores,
)

RUNGS = synthesis.RUNG_ORDER


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def check(plot: style.Plot, *numbers: str) -> str:
    """A figure that can be drawn, and a line that holds each of `numbers`."""
    figure, text = plot
    assert figure.axes and figure.get_figwidth() <= 8 and figure.dpi == 100
    figure.canvas.draw()
    assert "\n" not in text and text == text.strip() and text.endswith(".")
    assert "nan" not in text
    for number in numbers:
        assert number in text, text
    return text


# -- notebooks 01 and 02 ---------------------------------------------------------------

TASKS = pd.DataFrame(
    {
        "x": range(8),
        "y": range(8),
        "family": ["health", "home"] * 4,
        "group": ["sts"] * 4 + ["long-long"] * 4,
        "near_family": ["health"] * 8,
        "near_group": ["sts"] * 4 + ["long-long"] * 2 + ["sts"] * 2,
        "nearest": [0.5, 0.5, 0.6, 0.6, 0.7, 0.7, 0.9, 0.95],
    }
)


def test_the_map_of_tasks_gives_its_shares_with_intervals():
    text = check(synthesis.task_map(TASKS), "8 brainstormed tasks")
    assert "same family for 50% (" in text and "same group for 75% (" in text


def test_nearest_tasks_counts_what_is_above_the_threshold():
    text = check(synthesis.nearest_tasks(TASKS, 0.85), "0.65", "at most at 0.95")
    assert "2 of 8 tasks have one at 0.85 or above" in text


def rows(by: str, values: dict[str, float]) -> pd.DataFrame:
    table = pd.DataFrame(values.items(), columns=["measure", "value"]).assign(by=by)
    return table.assign(low=table["value"] - 0.05, high=table["value"] + 0.05)


def test_ladder_levels_gives_each_mean_with_its_interval():
    query = rows("query", dict(zip(RUNGS, [0.37, 0.34, 0.31, 0.26, 0.18], strict=True)))
    positive = rows("positive", dict(zip(RUNGS[1:], [0.8, 0.7, 0.6, 0.5], strict=True)))
    paper = pd.DataFrame({"level": LEVELS, "cosine": [0.881, 0.857, 0.845, 0.793]})
    plot = synthesis.ladder_levels(pd.concat([query, positive]), paper)
    text = check(plot, "P 0.37 (0.32 to 0.42)", "N4 0.18 (0.13 to 0.23)")
    assert "to the positive N1 0.80 (0.75 to 0.85)" in text
    assert "by 0.09 from N1 to N4" in text


def test_ladder_shares_names_every_part_and_no_winner():
    parts = {"sts": (0.5, 0.1), "long-long": (0.7, 0.2)}
    summary = pd.concat(
        rows(by, {"P above N1": above, "monotone": order, "inversions": 3.0})
        for by, (above, order) in parts.items()
    )
    text = check(synthesis.ladder_shares(summary, "By group"), "By group")
    for number in ("sts 50% (45% to 55%)", "long-long 70% (65% to 75%)"):
        assert number in text
    assert "monotone: sts 10% (5% to 15%), long-long 20% (15% to 25%)" in text
    assert "apart" not in text and "highest" not in text


def test_text_only_leak_gives_each_set_with_its_interval():
    auc = pd.DataFrame(
        [("MGH N1", "words", 0.6, 0.55, 0.65), ("MGH N4", "words", 0.8, 0.75, 0.85),
         ("MGH N1", "length", 0.5, 0.45, 0.55), ("MGH N4", "length", 0.7, 0.65, 0.75)],
        columns=["set", "features", "auc", "low", "high"],
    )  # fmt: skip
    text = check(synthesis.text_only_leak(auc), "MGH N1 0.60 (0.55 to 0.65)")
    assert "by words" in text and "MGH N4 0.80 (0.75 to 0.85)" in text


def test_words_by_rung_compares_each_example_with_itself():
    fewer = dict(zip(RUNGS, [0, -1, -2, -3, -4], strict=True))
    lengths = pd.DataFrame(
        [
            (f"{group}{n}", group, rung, base + n + change)
            for group, base in (("sts", 10), ("long-long", 100))
            for n in range(6)
            for rung, change in fewer.items()
        ],
        columns=["id", "group", "rung", "words"],
    )
    text = check(synthesis.words_by_rung(lengths), "sts -4.0 (-4.0 to -4.0)")
    assert "long-long -4.0" in text


# -- notebook 03 -----------------------------------------------------------------------


def test_rank_curves_gives_the_share_of_the_first_ten_over_queries():
    ranks = pd.DataFrame(
        [
            (teacher, kind, f"q{n}", 1 if n < hits else 50)
            for teacher, kind, hits in (
                ("bm25", "labelled", 8), ("bm25", "planted", 6), ("e", "labelled", 10)
            )
            for n in range(10)
        ],
        columns=["teacher", "kind", "query_id", "rank"],
    )  # fmt: skip
    text = check(mining.rank_curves(ranks, 20), "bm25, labelled 80% (")
    assert "bm25, planted 60% (" in text and "e, labelled 100% (100% to 100%)" in text


def cloud(planted: int) -> pd.DataFrame:
    n = np.arange(40)
    return pd.DataFrame(
        {
            "query_id": [f"q{k // 4}" for k in n],
            "positive_score": 0.5 + n / 100,
            "score": np.where(n % 4 == 0, 0.9, 0.2),
            "planted": (n % 4 == 0) & (n < planted),
        }
    )


def test_score_clouds_gives_the_share_below_each_ceiling():
    line = np.array([0.4, 1.0])
    ceilings = pd.concat(
        pd.DataFrame({"method": m, "positive_score": line, "ceiling": c})
        for m, c in {"abs": [0.7, 0.7], "margin_pos": [0.95, 0.95]}.items()
    )
    text = check(mining.score_clouds(cloud(40), ceilings), "of 10 in the tables")
    assert "abs 0% (0% to 0%)" in text and "margin_pos 100% (100% to 100%)" in text
    check(
        mining.score_clouds(cloud(0), ceilings),
        "abs none",
        "of 0 in the tables",
    )


def rates(value: float) -> pd.DataFrame:
    return pd.DataFrame(
        [
            (method, selection, share, share - 0.02, share + 0.02)
            for method, share in {"naive": 0.35, "abs": value}.items()
            for selection in ("top_k", "sampled")
        ],
        columns=["method", "selection", "value", "low", "high"],
    )


def test_false_negative_rates_leaves_out_what_mined_nothing():
    text = check(mining.false_negative_rates(rates(0.1), 0.388), "38.8%")
    assert "naive 35% (33% to 37%), abs 10% (8% to 12%)" in text
    text = check(mining.false_negative_rates(rates(np.nan), 0.388), "naive 35%")
    assert "abs" not in text


def test_hardness_tradeoff_gives_the_papers_settings_with_intervals():
    grid = pd.DataFrame(
        [("abs", 0.6, 0.10, 0.7, False), ("abs", 0.7, 0.20, 0.8, True),
         ("naive", 0.0, 0.35, 0.9, True)],
        columns=["method", "setting", "rate", "hardness", "best"],
    )  # fmt: skip
    grid = grid.assign(low=grid["rate"] - 0.03, high=grid["rate"] + 0.03)
    text = check(mining.hardness_tradeoff(grid), "abs 0.7 0.80 and 20% (17% to 23%)")
    assert "naive 0.90 and 35% (32% to 38%)" in text
    check(mining.hardness_tradeoff(grid[:0]), "none mined enough here")


# -- notebooks 04 to 06 ----------------------------------------------------------------

SPREAD = {"mean": [0.4, 0.5], "low": [0.35, 0.45], "high": [0.45, 0.55]}


def entries():
    attention = np.full((2, 4, 4), 0.2)
    attention[:, :, 1] = 0.4
    return [{"tokens": ["[CLS]", "bees", "dance", "[SEP]"], "attention": attention}]


def test_attention_and_strips():
    entry = entries()[0]
    plot = attention_with_columns(entry["tokens"], entry["attention"])
    check(plot, "4 tokens", "'bees'", "1.6 times")
    weights = [np.array([0.2, 0.5, 0.2, 0.1])]
    check(heat_strips(entries(), weights, width=3), "'bees'")


def test_anchor_classes_and_poolings():
    means = pd.DataFrame({"class": ["word", "punctuation"], **SPREAD})
    check(anchor_classes(means), "word 0.40 [0.35, 0.45]")
    table = pd.DataFrame({"pooling": ["mean", "ata"], **SPREAD})
    check(pooling_scores(table), "ata 0.500 [0.450, 0.550]")


def test_training_and_learning_curves():
    steps = pd.DataFrame(
        {
            "step": range(1, 5),
            "level": ["N4", "N4", "N1", "N1"],
            "loss": [2.0, 1.0, 0.5, 0.3],
            "gradient_norm": [1.0, 2.0, 1.0, 1.0],
        }
    )
    check(training.training_curves(steps), "4 steps", "N4 1.50", "N1 0.40")
    scores = pd.DataFrame(
        {
            "step": [0, 4],
            "level": ["start", "N1"],
            "ndcg": [0.4, 0.5],
            "beats_n1": [0.52, 0.51],
        }
    )
    check(training.learning_curve(scores), "0.400 before", "0.510 after")


def test_scores_gains_and_published():
    scores = pd.DataFrame(
        {
            "task": ["A", "A", "B"],
            "model": ["before", "after", "after"],
            "metric": ["ndcg_at_10", "ndcg_at_10", "max_ap"],
            "score": [0.4, 0.5, 0.9],
        }
    )
    text = check(evaluation.task_scores(scores), "before 0.400", "after 0.500")
    assert "0.9" not in text  # only NDCG is told; the rest is in the table
    gains = pd.DataFrame({"name": ["tasks", "family"], **SPREAD})
    check(evaluation.paired_gains(gains), "tasks +0.400 [+0.350, +0.450]")
    average = pd.DataFrame({"model": ["E5", "MGH"], "average": [63.1, 64.5]})
    check(evaluation.published_average(average, "Synthetic"), "MGH at 64.5")
