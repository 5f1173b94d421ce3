"""What the plots share: the look, marks with intervals, numbers in words.

A plot takes data frames and gives a figure and its one-line description, which states
the finding with its numbers; it is printed under the figure and is the image's
alternative text. Colours are colour-blind safe and never the only cue.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from nbutils.core.statistics import interval

PALETTE = sns.color_palette("colorblind")
MARKERS = "os^Dv*XP"
LINES = ["-", "--", ":", "-."]

Plot = tuple[Figure, str]


def theme() -> None:
    """Set the lab's look once: white grid, small type, 100 dots per inch."""
    sns.set_theme(style="whitegrid", context="notebook", palette="colorblind")
    plt.rcParams.update({"figure.dpi": 100, "savefig.dpi": 100, "font.size": 10})


def canvas(width: float = 7.0, height: float = 3.6, columns: int = 1, **grid):
    """A themed figure with `columns` axes in a row; returns (figure, axes)."""
    theme()
    return plt.subplots(
        1, columns, figsize=(width, height), layout="constrained", **grid
    )


def with_interval(value: float, low: float, high: float, form: str = ".0%") -> str:
    """`52% (48% to 56%)`."""
    return f"{value:{form}} ({low:{form}} to {high:{form}})"


def share_with_interval(flags: pd.Series, units: pd.Series | None = None) -> str:
    """`52% (48% to 56%)`: the mean of 0/1 flags and its interval over units."""
    flags = pd.Series(np.asarray(flags, dtype=float))
    if flags.empty:
        return "none"
    if units is not None:
        flags = flags.groupby(np.asarray(units)).mean()
    return with_interval(*interval(flags))


def dots(axis, rows, places, number: int, label: str | None = None) -> None:
    """Rows (value, low, high) as marks at `places`, in the look of that number."""
    errors = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
    axis.errorbar(
        rows["value"], places, xerr=errors, label=label, capsize=3, ls="none",
        color=PALETTE[number], marker=MARKERS[number],
    )  # fmt: skip


def dots_with_intervals(axis, table: pd.DataFrame, labels) -> None:
    """One row a label, from top to bottom: its mean with the interval low to high."""
    place = np.arange(len(table))
    error = [table["mean"] - table["low"], table["high"] - table["mean"]]
    axis.errorbar(
        table["mean"], place, xerr=error, fmt="o", color=PALETTE[0], capsize=4
    )
    axis.set_yticks(place, labels)
    axis.invert_yaxis()
