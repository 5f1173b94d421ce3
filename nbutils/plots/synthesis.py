"""Plots of pages 01 and 02: tasks, the ladder of graded negatives, leaks."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns

from nbutils.core.records import LEVELS
from nbutils.core.statistics import interval
from nbutils.plots import style
from nbutils.plots.style import BESIDE, Plot, canvas, told

RUNGS = ("P", *LEVELS)


def task_map(tasks: pd.DataFrame) -> Plot:
    """Tasks in two dimensions: columns x, y, family, group, near_family, near_group.

    `near_family` and `near_group` are the nearest other task's, by cosine.
    """
    fig, axis = canvas(height=4.6)
    sns.scatterplot(
        tasks, x="x", y="y", hue="family", style="group", s=55, ax=axis,
        palette=style.PALETTE[: tasks["family"].nunique()],
        markers=list(style.MARKERS[: tasks["group"].nunique()]),
    )  # fmt: skip
    axis.set(xticks=[], yticks=[], xlabel="projection 1", ylabel="projection 2")
    sns.move_legend(axis, **BESIDE)
    family, group = (
        style.share_with_interval(tasks[name] == tasks[f"near_{name}"], tasks.index)
        for name in ("family", "group")
    )
    return fig, (
        f"Map of {len(tasks)} brainstormed tasks: the nearest other is of the same "
        f"family for {family} and of the same group for {group} of them."
    )


def nearest_tasks(tasks: pd.DataFrame, threshold: float) -> Plot:
    """Histogram of each task's cosine to its nearest other task (column `nearest`)."""
    fig, axis = canvas(height=2.8)
    nearest = tasks["nearest"]
    axis.hist(nearest, bins=np.arange(0, 1.01, 0.04), color=style.PALETTE[0])
    axis.axvline(threshold, **style.REFERENCE, label=f"read by eye: {threshold:g}")
    axis.set(xlabel="cosine to the nearest other task", ylabel="tasks", xlim=(0, 1))
    axis.legend(**BESIDE)
    return fig, (
        f"The nearest other task is at a median cosine of {nearest.median():.2f} and "
        f"at most at {nearest.max():.2f}; {(nearest >= threshold).sum()} of "
        f"{len(tasks)} tasks have one at {threshold:g} or above."
    )


def ladder_levels(measured: pd.DataFrame, published: pd.DataFrame) -> Plot:
    """Mean cosine per rung with 95 % intervals, beside the published ones.

    `measured` has by, measure (a rung), value, low, high; `published` level, cosine.
    """
    fig, axis = canvas()
    axis.set(xlabel="rung of the ladder", ylabel="mean cosine")
    axis.set_xticks(range(len(RUNGS)), RUNGS)
    paper = published.set_index("level")["cosine"]
    places = paper.index.map(RUNGS.index)
    axis.plot(places, paper, "k-.P", label="published, the\npaper's model")
    here = measured.assign(
        rung=measured["measure"].map(RUNGS.index), by="here, to the " + measured["by"]
    )
    style.curves(axis, here, "rung", "value", "by")
    means = "; ".join(
        f"to the {name} {told(part, 'measure', 'value', '.2f')}"
        for name, part in measured.groupby("by", sort=False)
    )
    drop = paper.iloc[0] - paper.iloc[-1]
    return fig, (
        f"Mean cosines: {means}. The paper's fall by {drop:.2f} from "
        f"{paper.index[0]} to {paper.index[-1]}, on another model's scale."
    )


def ladder_shares(summary: pd.DataFrame, title: str) -> Plot:
    """Share in order and share with P above N1, one line a part, with 95 % intervals.

    `summary` has by, measure, value, low, high with "monotone" and "P above N1".
    """
    height = 1.2 + 0.3 * summary["by"].nunique()
    fig, axes = canvas(height=height, columns=2, sharey=True)
    found = []
    for axis, measure in zip(axes, ("P above N1", "monotone"), strict=True):
        rows = summary[summary["measure"] == measure]
        style.forest(axis, rows, "by", "value")
        axis.set(title=measure, xlabel="share of examples", xlim=(-0.02, 1.02))
        found.append(f"{measure}: {told(rows, 'by', 'value', '.0%')}")
    fig.suptitle(title, fontsize="medium")
    return fig, f"{title}, share of examples. {'; '.join(found)}."


def text_only_leak(auc: pd.DataFrame) -> Plot:
    """AUC without the query: columns set, features, auc, low, high; 0.5 is no leak."""
    fig, axis = canvas(height=1.2 + 0.42 * auc["set"].nunique())
    axis.axvline(0.5, **style.REFERENCE, label="no leak")
    style.forest(axis, auc, "set", "auc", "features")
    axis.set(xlabel="AUC of telling the negatives apart, no query seen", xlim=(0, 1))
    first = auc["features"].iloc[0]
    found = told(auc[auc["features"] == first], "set", "auc", ".2f")
    return fig, f"Text-only AUC by {first}, 0.5 is no leak: {found}."


def words_by_rung(lengths: pd.DataFrame) -> Plot:
    """Mean words per rung, a line a group: columns id, group, rung, words.

    One row a text; `id` is its example's.
    """
    fig, axis = canvas()
    texts = lengths.pivot(index=["group", "id"], columns="rung", values="words")
    means = texts[list(RUNGS)].groupby("group", sort=False).mean().reset_index()
    long = means.melt("group", value_name="words")
    style.curves(axis, long, "rung", "words", "group")
    axis.set(xlabel="rung of the ladder", ylabel="words", ylim=(0, None))
    more = (texts["N4"] - texts["P"]).groupby("group", sort=False)
    found = ", ".join(
        f"{group} {style.with_interval(*interval(part), '+.1f')}"
        for group, part in more
    )
    return fig, f"Words that N4 has more than its positive, by group: {found}."
