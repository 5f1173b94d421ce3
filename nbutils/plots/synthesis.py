"""Plots of pages 01, 01b and 02: the field, tasks, graded negatives, leaks, costs."""

import numpy as np
import pandas as pd
import seaborn as sns

from nbutils.core.records import RUNGS
from nbutils.plots import style
from nbutils.plots.style import BESIDE, Plot, canvas, told, told_by


def fan(passages: pd.DataFrame) -> Plot:
    """A query and its passages as a fan of unit vectors, and the ranking beside it.

    One row a passage: name, cosine (to the query), gain (1: it answers). The angle to
    the query is the arc cosine; on which side a passage stands means nothing.
    """
    fig, (plane, ranking) = canvas(height=3.2, columns=2)
    ranked = passages.sort_values("cosine", ascending=False).reset_index(drop=True)
    arc = np.linspace(-1.8, 1.8, 100)
    plane.plot(np.sin(arc), np.cos(arc), color="0.8", zorder=0)
    arrow = {"arrowstyle": "->", "color": "black", "linewidth": 2}
    plane.annotate("", (0, 1), (0, 0), arrowprops=arrow)
    plane.text(0, 1.06, "query", ha="center")
    for row in ranked.itertuples():
        rank, look = row.Index + 1, style.look(row.Index)
        angle = np.arccos(row.cosine) * (1 if row.Index % 2 else -1)
        tip = np.array([np.sin(angle), np.cos(angle)])
        plane.plot(*zip((0, 0), tip, strict=True), color="0.7", zorder=0)
        plane.plot(*tip, **look | {"linestyle": "none", "markersize": 8})
        plane.text(*1.14 * tip, str(rank), **style.CENTRED)
        fill = look["color"] if row.gain else "white"
        ranking.barh(rank, 1 / np.log2(rank + 1), color=fill, edgecolor=look["color"])
    plane.set(aspect="equal", xlim=(-1.25, 1.25), ylim=(-0.3, 1.2))
    plane.set_title("angles to the query")
    plane.axis("off")
    ranking.set(xlabel="worth of the rank", xlim=(0, 1.02), title="filled: it answers")
    names = [f"{rank} {name}" for rank, name in enumerate(ranked["name"], 1)]
    ranking.set_yticks(ranked.index + 1, names)
    ranking.set_ylim(len(ranked) + 0.6, 0.4)
    order = told(ranked, "name", "cosine", ".2f")
    return fig, f"One query and its passages from the nearest: {order}."


def papers_map(parts: pd.DataFrame) -> Plot:
    """What each paper adds at each stop: columns are stops, rows are papers.

    A cell is the name of the paper's part, or "" where it has none.
    """
    fig, axis = canvas(height=0.9 + 0.75 * len(parts))
    box = {"boxstyle": "round,pad=0.35", "edgecolor": "black", "facecolor": "white"}
    arrow = {"arrowstyle": "->", "color": "0.4"}
    for x, stop in enumerate(parts.columns):
        axis.text(x, 0, stop, bbox=box, **style.CENTRED)
        if x:
            axis.annotate("", (x - 0.42, 0), (x - 0.58, 0), arrowprops=arrow)
    found = []
    for row, (paper, own) in enumerate(parts.iterrows(), 1):
        axis.text(-0.75, row, paper, ha="right", va="center", weight="bold")
        pale = tuple(0.6 + 0.4 * part for part in style.PALETTE[row - 1])
        axis.plot([-0.65, len(own) - 0.5], [row, row], color=pale, zorder=0)
        shown = {x: part for x, part in enumerate(own) if part}
        for x, part in shown.items():
            axis.text(x, row, part, bbox=box | {"facecolor": pale}, **style.CENTRED)
        added = (f"{part} ({parts.columns[x]})" for x, part in shown.items())
        found.append(f"{paper}: {', '.join(added)}")
    axis.set(xlim=(-1.9, parts.shape[1] - 0.5), ylim=(len(parts) + 0.5, -0.5))
    axis.axis("off")
    words = " ".join("; ".join(found).split())
    return fig, f"What each paper adds on the way from tasks to scores. {words}."


def task_map(tasks: pd.DataFrame) -> Plot:
    """Tasks in two dimensions: columns x, y, family, group, near_family, near_group.

    `near_family` and `near_group` are the nearest other task's, by cosine.
    """
    fig, axis = canvas(height=4.6)
    colours = style.PALETTE[: tasks["family"].nunique()]
    marks = list(style.MARKERS[: tasks["group"].nunique()])
    cues = {"hue": "family", "style": "group", "palette": colours, "markers": marks}
    sns.scatterplot(tasks, x="x", y="y", s=55, ax=axis, **cues)
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


def costs(table: pd.DataFrame, currency: str) -> Plot:
    """What a plan costs, by model and way of asking: columns model, asked, cost."""
    fig, axis = canvas(height=1.2 + 0.35 * table["model"].nunique())
    style.forest(axis, table, "model", "cost", "asked")
    axis.set(xlabel=f"cost of the whole plan, {currency}", xlim=(0, None))
    found = told_by(table, "asked", "model", "cost", ".2f", sep=" ")
    return fig, f"Cost of the whole plan in {currency}: {found}."


def ladders(table: pd.DataFrame) -> Plot:
    """Single ladders, a line each: columns example, rung, cosine (to the query)."""
    fig, axis = canvas(height=1.2 + 0.5 * table["example"].nunique())
    style.forest(axis, table, "example", "cosine", "rung", gap=0.1)
    axis.set(xlabel="cosine to the query")
    ranked = table.sort_values("cosine", ascending=False)
    found = (
        f"{name}: {told(ranked[ranked['example'] == name], 'rung', 'cosine', '.2f')}"
        for name in table["example"].unique()
    )
    return fig, f"Rungs from the most to the least similar. {'; '.join(found)}."


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
    measured = measured.assign(by="to the " + measured["by"])
    rungs = measured["measure"].map(RUNGS.index)
    here = measured.assign(rung=rungs, by="here, " + measured["by"])
    style.curves(axis, here, "rung", "value", "by")
    means = told_by(measured, "by", "measure", "value", ".2f", sep=" ")
    drop = paper.iloc[0] - paper.iloc[-1]
    return fig, (
        f"Mean cosines: {means}. The paper's fall by {drop:.2f} from "
        f"{paper.index[0]} to {paper.index[-1]}, on another model's scale."
    )


def ladder_shares(summary: pd.DataFrame, title: str) -> Plot:
    """Share in order and share with P above N1, one line a part, with 95 % intervals.

    `summary` has by, measure, value, low, high with "monotone" and "P above N1".
    """
    fig, axes = canvas(7.6, 1.2 + 0.3 * summary["by"].nunique(), 1, 2, sharey=True)
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
    axis.set(xlabel="AUC of telling the negatives apart, no query seen")
    axis.set_xlim(0, 1.03)  # a leak the other way, too, and one that is perfect
    first = auc["features"].iloc[0]
    found = told(auc[auc["features"] == first], "set", "auc", ".2f")
    return fig, f"Text-only AUC by {first}, 0.5 is no leak: {found}."
