"""Plots of page 06: scores of tasks, gains from training, published averages."""

import numpy as np
import pandas as pd

from nbutils.plots import style
from nbutils.plots.style import REFERENCE, Plot, canvas, forest, told, told_by

OUTCOMES = {"holds": ("o", style.PALETTE[0]), "fails": ("X", style.PALETTE[3])}
"""Mark and colour of a comparison that decides."""


def task_scores(table: pd.DataFrame) -> Plot:
    """mteb's main score, a panel a metric: columns task, model, metric, score."""
    groups = table.groupby("metric", sort=False)
    counts = groups["task"].nunique()
    height = 1.0 + 0.55 * counts.sum() + 0.35 * len(counts)
    ratios = {"height_ratios": [*counts]}
    fig, axes = canvas(7.6, height, len(counts), squeeze=False, gridspec_kw=ratios)
    for axis, (metric, own) in zip(axes[:, 0], groups, strict=True):
        forest(axis, own, "task", "score", "model", gap=0.16)
        axis.set_xlabel(style.readable(metric))
        if axis is not axes[0, 0]:
            axis.get_legend().remove()
    ndcg = table[table["metric"] == "ndcg_at_10"]
    found = told_by(ndcg, "task", "model", "score")
    return fig, f"mteb scores by metric, task and model; NDCG@10 of {found}."


def paired_gains(table: pd.DataFrame) -> Plot:
    """Gain over the untrained student with its interval: name, mean, low, high."""
    fig, axis = canvas(height=1.0 + 0.4 * len(table))
    axis.axvline(0, **REFERENCE)
    forest(axis, table, "name")
    axis.set_xlabel("score after training − before, with 95 % interval")
    return fig, f"Gain from training: {told(table, 'name', form='+.3f')}."


def gains_by_split(table: pd.DataFrame) -> Plot:
    """Gains on SciFact: columns negatives, claims (the split), mean, low, high."""
    fig, axis = canvas(height=1.2 + 0.5 * table["negatives"].nunique())
    axis.axvline(0, **REFERENCE)
    forest(axis, table, "negatives", series="claims")
    axis.set_xlabel("NDCG@10 after training − before, with 95 % interval")
    found = told_by(table, "claims", "negatives", form="+.3f")
    return fig, f"Gain on SciFact by negatives trained on. {found}."


def claims_forest(table: pd.DataFrame) -> Plot:
    """The comparisons of the claims table that are in NDCG@10, a line each.

    A filled mark decides (outcome holds or fails), an open one does not.
    """
    table = table[table["unit"] == "NDCG@10"].reset_index(drop=True)
    fig, axis = canvas(height=1.2 + 0.24 * len(table))
    axis.axvline(0, **REFERENCE)
    for place, row in table.iterrows():
        marker, colour = OUTCOMES.get(row["outcome"], ("s", "0.45"))
        fill = "white" if row["outcome"] == "open" else colour
        look = {"marker": marker, "color": colour, "markerfacecolor": fill}
        whiskers = [[row["value"] - row["low"]], [row["high"] - row["value"]]]
        axis.errorbar(row["value"], place, xerr=whiskers, capsize=2, **look)
    labels = table["number"] + ": " + table["comparison"].map(style.compared)
    axis.set_yticks(range(len(table)), labels)
    axis.set_ylim(len(table) - 0.5, -0.5)
    axis.set_xlabel("difference in NDCG@10, with 95 % interval")
    counts = table["outcome"].value_counts()
    found = ", ".join(f"{counts.get(n, 0)} {n}" for n in (*OUTCOMES, "open"))
    return fig, f"Comparisons behind the verdicts, in NDCG@10: {found}."


def published_average(table: pd.DataFrame) -> Plot:
    """The paper's MTEB averages, a panel a kind of data: model, average."""
    own = table["model"].str.startswith("MGH")
    table = table.assign(whose=np.where(own, "the paper's own", "others"))
    halves = table.groupby("training_data", sort=False)
    ratios = {"height_ratios": [*halves.size()]}
    height = 1.2 + 0.3 * len(table)
    fig, axes = canvas(7.6, height, len(halves), sharex=True, gridspec_kw=ratios)
    for axis, (data, part) in zip(np.atleast_1d(axes), halves, strict=True):
        forest(axis, part, "model", "average", "whose", gap=0)
        axis.set(title=f"training data: {data}")
    axis.set_xlabel("MTEB average (56 tasks), as published")
    found = told_by(table, "training_data", "model", "average", ".1f")
    return fig, f"Published MTEB averages. {found}."
