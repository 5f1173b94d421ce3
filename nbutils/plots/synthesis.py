"""Plots of tasks and the ladder: data frames in, a figure and its one line out."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns

from nbutils.core.statistics import interval
from nbutils.plots.style import (
    LINES,
    MARKERS,
    PALETTE,
    Plot,
    canvas,
    dots,
    share_with_interval,
    with_interval,
)

RUNG_ORDER = ["P", "N1", "N2", "N3", "N4"]


def task_map(tasks: pd.DataFrame) -> Plot:
    """Tasks in two dimensions: columns x, y, family, group, near_family, near_group.

    `near_family` and `near_group` are the nearest other task's, by cosine.
    """
    fig, axis = canvas(7.6, 4.6)
    sns.scatterplot(
        tasks, x="x", y="y", hue="family", style="group", s=55, ax=axis,
        palette=PALETTE[: tasks["family"].nunique()],
        markers=list(MARKERS[: tasks["group"].nunique()]),
    )  # fmt: skip
    axis.set(xlabel="first projection", ylabel="second projection")
    axis.set(xticks=[], yticks=[])
    axis.legend(bbox_to_anchor=(1.01, 1), loc="upper left", fontsize=8, frameon=False)
    family = share_with_interval(tasks["family"] == tasks["near_family"])
    group = share_with_interval(tasks["group"] == tasks["near_group"])
    return fig, (
        f"Map of {len(tasks)} brainstormed tasks: the nearest other is of the same "
        f"family for {family} and of the same group for {group} of them."
    )


def nearest_tasks(tasks: pd.DataFrame, threshold: float) -> Plot:
    """Histogram of each task's cosine to its nearest other task (column `nearest`)."""
    fig, axis = canvas(7.0, 2.8)
    axis.hist(tasks["nearest"], bins=np.arange(0, 1.01, 0.04), color=PALETTE[0])
    axis.axvline(threshold, color="black", ls="--", label=f"read by eye: {threshold:g}")
    axis.set(xlabel="cosine to the nearest other task", ylabel="tasks", xlim=(0, 1))
    axis.legend(frameon=False)
    near = (tasks["nearest"] >= threshold).sum()
    return fig, (
        f"The nearest other task is at a median cosine of "
        f"{tasks['nearest'].median():.2f} and at most at {tasks['nearest'].max():.2f}; "
        f"{near} of {len(tasks)} tasks have one at {threshold:g} or above."
    )


def ladder_levels(measured: pd.DataFrame, published: pd.DataFrame) -> Plot:
    """Mean cosine per rung with 95 % intervals, beside the published ones.

    `measured` has by, measure (a rung), value, low, high; `published` level, cosine.
    """
    fig, axis = canvas(7.0, 3.6)
    for number, (name, part) in enumerate(measured.groupby("by", sort=False)):
        _errorbars(axis, part, RUNG_ORDER, number, f"here, to the {name}")
    paper = published.set_index("level")["cosine"]
    places = [RUNG_ORDER.index(rung) for rung in paper.index]
    axis.plot(places, paper, "k-.P", label="published, the paper's model")
    axis.set(xlabel="rung", ylabel="mean cosine")
    axis.set_xticks(range(len(RUNG_ORDER)), RUNG_ORDER)
    axis.legend(frameon=False, fontsize=8)
    means = [
        f"to the {name} "
        + ", ".join(
            f"{r.measure} {with_interval(r.value, r.low, r.high, '.2f')}"
            for r in part.itertuples()
        )
        for name, part in measured.groupby("by", sort=False)
    ]
    drop = paper.iloc[0] - paper.iloc[-1]
    return fig, (
        f"Mean cosines: {'; '.join(means)}. The paper's fall by {drop:.2f} from "
        f"{paper.index[0]} to {paper.index[-1]}, on another model's scale."
    )


def ladder_shares(summary: pd.DataFrame, title: str) -> Plot:
    """Share in order and share with P above N1, one row a part, with 95 % intervals.

    `summary` has by, measure, value, low, high with "monotone" and "P above N1".
    """
    measures = ["P above N1", "monotone"]
    parts = list(dict.fromkeys(summary["by"]))
    fig, axes = canvas(7.6, 1.2 + 0.3 * len(parts), columns=2, sharey=True)
    for number, (axis, measure) in enumerate(zip(axes, measures, strict=True)):
        rows = summary[summary["measure"] == measure].set_index("by").loc[parts]
        dots(axis, rows, range(len(parts)), number)
        axis.set(title=measure, xlabel="share of examples", xlim=(0, 1))
        axis.set_yticks(range(len(parts)), parts)
    axes[0].invert_yaxis()
    fig.suptitle(title, fontsize=10)
    found = [
        f"{measure}: "
        + ", ".join(
            f"{r.by} {with_interval(r.value, r.low, r.high)}"
            for r in summary[summary["measure"] == measure].itertuples()
        )
        for measure in measures
    ]
    return fig, f"{title}, share of examples. {'; '.join(found)}."


def text_only_leak(auc: pd.DataFrame) -> Plot:
    """AUC without the query: columns set, features, auc, low, high; 0.5 is no leak."""
    sets, kinds = (list(dict.fromkeys(auc[name])) for name in ("set", "features"))
    fig, axis = canvas(7.4, 1.2 + 0.42 * len(sets))
    for number, kind in enumerate(kinds):
        rows = auc[auc["features"] == kind].set_index("set").loc[sets]
        rows = rows.rename(columns={"auc": "value"})
        places = np.arange(len(sets)) + 0.2 * (number - (len(kinds) - 1) / 2)
        dots(axis, rows, places, number, kind)
    axis.axvline(0.5, color="black", ls="--")
    axis.set(xlabel="AUC of telling the negatives apart, no query seen", xlim=(0.3, 1))
    axis.set_yticks(range(len(sets)), sets)
    axis.invert_yaxis()
    axis.legend(bbox_to_anchor=(1.01, 1), loc="upper left", fontsize=8, frameon=False)
    first = auc[auc["features"] == kinds[0]]
    found = ", ".join(
        f"{r.set} {r.auc:.2f} ({r.low:.2f} to {r.high:.2f})" for r in first.itertuples()
    )
    return fig, f"Text-only AUC by {kinds[0]}, 0.5 is no leak: {found}."


def words_by_rung(lengths: pd.DataFrame) -> Plot:
    """Mean words per rung, a line a group: columns id, group, rung, words.

    One row a text; `id` is its example's.
    """
    fig, axis = canvas(7.0, 3.2)
    texts = lengths.pivot(index=["group", "id"], columns="rung", values="words")
    table = texts[RUNG_ORDER].groupby("group", sort=False).mean()
    for number, (group, row) in enumerate(table.iterrows()):
        axis.plot(
            RUNG_ORDER, row, label=group, color=PALETTE[number],
            ls=LINES[number % len(LINES)], marker=MARKERS[number],
        )  # fmt: skip
    axis.set(xlabel="rung", ylabel="words", ylim=(0, None))
    axis.legend(bbox_to_anchor=(1.01, 1), loc="upper left", fontsize=8, frameon=False)
    fewer = (texts["N4"] - texts["P"]).groupby("group", sort=False)
    found = ", ".join(
        f"{group} {with_interval(*interval(part), '+.1f')}" for group, part in fewer
    )
    return fig, f"Words that N4 has more than its positive, by group: {found}."


def _errorbars(axis, rows, order: list[str], number: int, label: str) -> None:
    errors = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
    places = [order.index(rung) for rung in rows["measure"]]
    axis.errorbar(
        places, rows["value"], yerr=errors, label=label, capsize=3,
        color=PALETTE[number], ls=LINES[number], marker=MARKERS[number],
    )  # fmt: skip
