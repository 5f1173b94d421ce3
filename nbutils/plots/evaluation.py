"""Plots of page 06: scores of tasks, gains from training, published averages."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd

from nbutils.plots.style import REFERENCE, Plot, canvas, forest, readable, told


def task_scores(table: pd.DataFrame) -> Plot:
    """mteb's main score by task and model: columns task, model, metric, score."""
    table = table.assign(task=table["task"].map(_in_words))
    named = table.assign(row=table["task"] + "\n" + table["metric"].map(readable))
    fig, axis = canvas(height=1 + 0.42 * table["task"].nunique())
    forest(axis, named, "row", "score", "model", gap=0.16)
    axis.set_xlabel("score, in the metric that is named at the left")
    ndcg = table[table["metric"] == "ndcg_at_10"].groupby("task", sort=False)
    found = "; ".join(f"{task}: {told(part, 'model', 'score')}" for task, part in ndcg)
    return fig, f"mteb scores by task and model; NDCG@10 of {found}."


def _in_words(task: str) -> str:
    """`LabHeldOutTasksSTS` as "held out tasks STS"; mteb's own names as they are."""
    if not task.startswith("Lab"):
        return task
    words = re.findall(r"[A-Z]+(?![a-z])|[A-Z][a-z]+", task.removeprefix("Lab"))
    return " ".join(word if word.isupper() else word.lower() for word in words)


def paired_gains(table: pd.DataFrame) -> Plot:
    """Gain over the untrained student with its interval: name, mean, low, high."""
    fig, axis = canvas(height=1.0 + 0.4 * len(table))
    axis.axvline(0, **REFERENCE)
    forest(axis, table, "name")
    axis.set_xlabel("score after training − before, with 95 % interval")
    return fig, f"Gain from training: {told(table, 'name', form='+.3f')}."


def published_average(table: pd.DataFrame, title: str) -> Plot:
    """A paper's own averages: columns model, average; MGH has a look of its own."""
    whose = np.where(table["model"].str.startswith("MGH"), "the paper's own", "others")
    fig, axis = canvas(height=1.2 + 0.3 * len(table))
    forest(axis, table.assign(whose=whose), "model", "average", "whose", gap=0)
    axis.set(xlabel="MTEB average (56 tasks), as published", title=title)
    found = told(table, "model", "average", ".1f")
    return fig, f"{title}, published MTEB averages: {found}."
