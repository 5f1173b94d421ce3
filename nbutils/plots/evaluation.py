"""Plots of scores: data frames in, a figure and its one-line description out."""

from __future__ import annotations

import numpy as np
import pandas as pd

from nbutils.plots.style import MARKERS, PALETTE, Plot, canvas, dots_with_intervals


def task_scores(table: pd.DataFrame) -> Plot:
    """mteb's main score by task and model: columns task, model, score."""
    fig, axis = canvas(8, 4.0)
    tasks, models = table["task"].unique(), table["model"].unique()
    for i, model in enumerate(models):
        part = table[table["model"] == model].set_index("task").reindex(tasks)
        place = np.arange(len(tasks)) + (i - (len(models) - 1) / 2) * 0.18
        axis.plot(part["score"], place, MARKERS[i], color=PALETTE[i], label=model)
    axis.set_yticks(np.arange(len(tasks)), tasks)
    axis.invert_yaxis()
    axis.set_xlabel("main score of the task")
    axis.legend(fontsize=8)
    told = []
    for task, part in table[table["metric"] == "ndcg_at_10"].groupby(
        "task", sort=False
    ):
        scores = ", ".join(
            f"{row['model']} {row['score']:.3f}" for _, row in part.iterrows()
        )
        told.append(f"{task}: {scores}")
    return fig, "mteb scores by task and model; NDCG@10 of " + "; ".join(told) + "."


def paired_gains(table: pd.DataFrame) -> Plot:
    """Gain over the untrained student with its interval: name, mean, low, high."""
    fig, axis = canvas(7, 0.4 * len(table) + 1.2)
    dots_with_intervals(axis, table, table["name"])
    axis.axvline(0, color="black", linestyle="--", linewidth=1)
    axis.set_xlabel("after − before, with 95 % interval")
    told = "; ".join(
        f"{r['name']} {r['mean']:+.3f} [{r['low']:+.3f}, {r['high']:+.3f}]"
        for _, r in table.iterrows()
    )
    return fig, f"Gain from training: {told}."


def published_average(table: pd.DataFrame, title: str) -> Plot:
    """A paper's own averages as dots: columns model, average; MGH is highlighted."""
    fig, axis = canvas(7, 0.3 * len(table) + 1.1)
    place = np.arange(len(table))
    colours = [
        PALETTE[1] if m.startswith("MGH") else PALETTE[0] for m in table["model"]
    ]
    axis.scatter(table["average"], place, c=colours)
    for y, value in zip(place, table["average"], strict=True):
        axis.annotate(f" {value:.1f}", (value, y), fontsize=8, va="center")
    axis.set_yticks(place, table["model"])
    axis.invert_yaxis()
    axis.set(xlabel="MTEB average (56 tasks), as published", title=title)
    best = table.loc[table["average"].idxmax()]
    return fig, (
        f"{title}: published MTEB averages; highest is {best['model']} at "
        f"{best['average']:.1f}."
    )
