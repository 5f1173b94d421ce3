"""Plots of page 05: batches and schedules as tiles, NF4, a run, and the studies."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import ListedColormap
from matplotlib.patches import Patch

from nbutils.plots import style
from nbutils.plots.style import BESIDE, Plot, canvas, curves, told


def tiles(
    panels: Mapping[str, pd.DataFrame], signs: Mapping[str, str], x: str, y: str
) -> Plot:
    """What stands where: a coloured tile with a sign for each value of a table.

    One panel a table, under its name; `signs` maps what a table may hold to its sign.
    Empty places of a table are nan.
    """
    names, rows = list(signs), max(map(len, panels.values()))
    colours = ListedColormap(sns.color_palette("pastel", len(names)))
    fig, axes = canvas(8, 0.9 + 0.3 * rows, 1, len(panels), sharey=True, squeeze=False)
    scale = {"cmap": colours, "vmin": -0.5, "vmax": len(names) - 0.5}
    centred = style.CENTRED | {"fontsize": 8}
    found = []
    for axis, (title, table) in zip(axes[0], panels.items(), strict=True):
        codes = table.replace({name: k for k, name in enumerate(names)}).astype(float)
        codes = np.ma.masked_invalid(codes)
        axis.pcolormesh(codes, **scale, edgecolor="white", linewidth=1.5)
        for (row, column), value in np.ndenumerate(table):
            axis.text(column + 0.5, row + 0.5, signs.get(value, ""), **centred)
        axis.set(title=title, xlabel=x)
        axis.set_xticks(np.arange(table.shape[1]) + 0.5, table.columns)
        axis.set_yticks(np.arange(len(table)) + 0.5, table.index)
        axis.grid(False)
        counts = table.stack().value_counts().reindex(names).dropna().astype(int)
        told_here = ", ".join(f"{count} {name}" for name, count in counts.items())
        found.append(f"{title}: {told_here}")
    axes[0, 0].invert_yaxis()
    axes[0, 0].set_ylabel(y)
    keys = [
        Patch(color=colours(k), label=name if sign == name else f"{sign} {name}")
        for k, (name, sign) in enumerate(signs.items())
    ]
    axes[0, -1].legend(handles=keys, **BESIDE)
    return fig, f"Tiles of {y} by {x}. {'; '.join(found)}."


def gradient_shares(table: pd.DataFrame) -> Plot:
    """Share of the gradient by a negative's rank: temperature, rank (from 1), share."""
    fig, axis = canvas()
    named = table.assign(series="τ = " + table["temperature"].astype(str))
    curves(axis, named, "rank", "share", "series")
    axis.set_xlabel("rank of the negative, hardest first")
    axis.set_ylabel("share of the negatives' gradient")
    found = told(named[named["rank"] == 1], "series", "share", ".0%", ": ")
    return fig, f"Share of the gradient that falls on the hardest negative, {found}."


def nf4_levels(weights: Sequence[float], levels: Sequence[float]) -> Plot:
    """Histogram of `weights` over their block's largest, and NF4's sixteen levels."""
    fig, axis = canvas(height=2.6)
    axis.hist(weights, bins=80, density=True, color="0.75", label="weights of a matrix")
    lines = {"color": "black", "lw": 1, "label": "levels of NF4"}
    axis.vlines(levels, 0, axis.get_ylim()[1], **lines)
    axis.set(xlabel="weight / largest of its block of 64", ylabel="density")
    axis.legend(**BESIDE)
    inside = np.mean(np.abs(weights) < 0.5)
    dense = np.sum(np.abs(levels) < 0.5)
    return fig, (
        f"{inside:.0%} of the weights lie between −0.5 and 0.5 of their block's "
        f"largest, and {dense} of NF4's {len(levels)} levels."
    )


def long_run(steps: pd.DataFrame, curve: pd.DataFrame, queries: int) -> Plot:
    """A run: loss and gradient norm by step, and both development scores by level.

    `steps`: step, level, loss, gradient_norm; `curve`: step, level (`start` before
    training), ndcg, beats_n1, a share of `queries`: its bars are one standard error.
    """
    fig, axes = canvas(8, 5.4, 2, 2)
    labels = {"loss": "InfoNCE loss", "gradient_norm": "norm of the gradient"}
    for axis, (column, label) in zip(axes[0], labels.items(), strict=True):
        curves(axis, steps, "step", column, "level")
        axis.set(xlabel="step", ylabel=label)
    axes[0, 0].get_legend().remove()
    share, found = curve["beats_n1"], []
    error = (share * (1 - share) / queries) ** 0.5
    spread = curve.assign(low=share - error, high=share + error)
    ticks = curve["step"].astype(str) + "\n" + curve["level"]
    for axis, table, column, label in (
        (axes[1, 0], curve, "ndcg", "NDCG@10"),
        (axes[1, 1], spread, "beats_n1", "share with P above N1"),
    ):
        curves(axis, table, "step", column)
        axis.set_xticks(curve["step"], ticks)
        axis.set(xlabel="step, and the level just finished", ylabel=label)
        found.append(f"{label}: {told(curve, 'level', column)}")
    means = steps.groupby("level", sort=False, as_index=False)["loss"].mean()
    return fig, (
        f"{len(steps)} steps; mean loss by level: {told(means, 'level', 'loss', '.2f')}"
        f". Development scores after each level, {'; '.join(found)}."
    )


def studies(table: pd.DataFrame) -> Plot:
    """Differences of our studies with their intervals, and a verdict beside each line.

    Columns comparison, mean, low, high, verdict.
    """
    fig, axis = canvas(8, 1.1 + 0.3 * len(table))
    axis.axvline(0, **style.REFERENCE)
    table = table.assign(comparison=table["comparison"].map(style.compared))
    style.forest(axis, table, "comparison")
    axis.set_xlabel("difference in NDCG@10, with 95 % interval")
    beside = axis.get_yaxis_transform()
    for place, verdict in enumerate(table["verdict"]):
        axis.text(1.02, place, verdict, transform=beside, va="center", fontsize=9)
    return fig, f"Our studies, {told(table, 'comparison', form='+.3f')}."
