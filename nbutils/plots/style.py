"""What the plots share: the look, marks with intervals, names and numbers in words.

Colours are colour-blind safe and never the only cue; legends stand beside the data.
Columns `low` and `high` of a table are its intervals, where it has them.
"""

import re
from collections.abc import Iterator

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from nbutils.core.statistics import interval

Plot = tuple[Figure, str]

PALETTE = sns.color_palette("colorblind")
MARKERS = "os^Dv*XP"
LINES = ["-", "--", ":", "-."]
REFERENCE = {"color": "black", "linestyle": "--", "linewidth": 1}
BESIDE = {"loc": "upper left", "bbox_to_anchor": (1.01, 1), "frameon": False}
"""Where a legend stands: to the right of the data."""
CENTRED = {"ha": "center", "va": "center"}
"""How a text stands at its place."""

NAMES = {
    "naive": "Naive", "shifted": "Shifted", "abs": "Abs", "margin_pos": "MarginPos",
    "perc_pos": "PercPos", "top_k": "top k", "top1_sampled": "top 1, rest sampled",
    "perc_pos, no in-batch": "PercPos, no in-batch", "bm25": "BM25", "ata": "ATA",
    "weighted_mean": "weighted mean",
    "ndcg_at_10": "NDCG@10", "map_at_1000": "MAP@1000", "max_ap": "average precision",
    "cosine_spearman": "Spearman correlation",
}  # fmt: skip
"""What readers call that which settings and libraries name otherwise."""


def canvas(width: float = 7.6, height: float = 3.4, rows=1, columns=1, **grid):
    """A figure of so many inches and its axes, in the lab's look, as `plt.subplots`."""
    dots = {"figure.dpi": 160, "savefig.dpi": 160}
    sns.set_theme("paper", "whitegrid", "colorblind", font_scale=1.05, rc=dots)
    size = (width, height)
    return plt.subplots(rows, columns, figsize=size, layout="constrained", **grid)


def look(number: int) -> dict:
    """Colour, marker and line style of the series of that number."""
    cues = {"color": PALETTE, "marker": MARKERS, "linestyle": LINES}
    return {cue: kinds[number % len(kinds)] for cue, kinds in cues.items()}


def readable(name: object) -> str:
    """The name as readers know it; an unknown one as it is."""
    return NAMES.get(name, str(name))


def compared(names: str) -> str:
    """`perc_pos − naive, scifact` with each method's name as readers know it."""
    return re.sub(r"[a-z]\w*", lambda found: readable(found[0]), names)


def with_interval(value: float, low: float, high: float, form: str = ".0%") -> str:
    """`52% (48% to 56%)`."""
    return f"{value:{form}} ({low:{form}} to {high:{form}})"


def share_with_interval(flags: pd.Series, units: pd.Series) -> str:
    """`52% (48% to 56%)`: the mean of 0/1 flags and its interval over units."""
    means = pd.Series(np.asarray(flags, float)).groupby(np.asarray(units)).mean()
    return with_interval(*interval(means)) if len(means) else "none"


def told(table: pd.DataFrame, name: str, value="mean", form=".3f", sep=" ") -> str:
    """`a 0.40 (0.35 to 0.45), b …`: name and number of each row that has a number."""
    found = []
    for row in table.dropna(subset=value).to_dict("records"):
        shown = f"{row[value]:{form}}"
        if "low" in row:
            shown = with_interval(row[value], row["low"], row["high"], form)
        found.append(f"{readable(row[name])}{sep}{shown}")
    return ", ".join(found)


def told_by(
    table: pd.DataFrame, by: str, name: str, value="mean", form=".3f", sep=": "
) -> str:
    """`one: a 0.40, b 0.50; two: …`: what is `told` for each value of column `by`."""
    parts = table.groupby(by, sort=False)
    return "; ".join(f"{of}{sep}{told(own, name, value, form)}" for of, own in parts)


def curves(axis, table: pd.DataFrame, x: str, value="mean", series=None) -> None:
    """A line over column `x` for each value of column `series`, and its legend."""
    for part, whiskers, cues in _series(table, value, series):
        axis.errorbar(part[x], part[value], whiskers, **cues)
    if series:
        axis.legend(**BESIDE)


def forest(axis, table: pd.DataFrame, row: str, value="mean", series=None, gap=0.2):
    """Marks with their intervals, a line of the axis for each value of column `row`.

    Lines stand from top to bottom in the table's order. The values of column `series`
    have each a look of their own, a line in the legend, and stand `gap` apart.
    """
    names = list(dict.fromkeys(table[row]))
    first = -gap / 2 * (table[series].nunique() - 1) if series else 0
    for number, (part, whiskers, cues) in enumerate(_series(table, value, series)):
        places = [names.index(name) + first + gap * number for name in part[row]]
        cues["linestyle"] = ""
        axis.errorbar(part[value], places, xerr=whiskers, **cues)
    axis.set_yticks(range(len(names)), map(readable, names))
    axis.set_ylim(len(names) - 0.5, -0.5)
    if series:
        axis.legend(**BESIDE)


def _series(table: pd.DataFrame, value: str, by: str | None) -> Iterator[tuple]:
    """(rows, whiskers, look) for each value of column `by`; where it is None, one."""
    parts = table.groupby(by, sort=False) if by else [("", table)]
    for number, (name, part) in enumerate(parts):
        whiskers = None
        if "low" in part:
            whiskers = [part[value] - part["low"], part["high"] - part[value]]
        yield part, whiskers, look(number) | {"label": readable(name), "capsize": 3}
