"""Plots of page 04: the template, attention, anchors by class and layer, poolings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import LogNorm

from nbutils.plots import style
from nbutils.plots.style import REFERENCE, Plot, canvas, told


def token_strip(
    tokens: Sequence[str], pooled: Sequence[float], parts: Sequence[str], width=7
) -> Plot:
    """Tokens in reading order, `width` a row, coloured by their part of the format.

    `pooled` (n,) is 1 where a token is pooled; what is left out is hatched.
    """
    names = list(dict.fromkeys(parts))
    colours = dict(zip(names, sns.color_palette("pastel"), strict=False))
    rows = -(-len(tokens) // width)
    fig, axis = canvas(8, 0.45 * rows + 0.3)
    for place, (token, part) in enumerate(zip(tokens, parts, strict=True)):
        column, row = place % width, place // width
        hatch = None if pooled[place] else "////"
        look = {"facecolor": colours[part], "edgecolor": "grey", "hatch": hatch}
        axis.add_patch(plt.Rectangle((column, row), 0.96, 0.9, **look))
        behind = {"facecolor": colours[part], "edgecolor": "none", "pad": 1}
        centred = {"ha": "center", "va": "center", "fontsize": 8, "bbox": behind}
        axis.text(column + 0.48, row + 0.45, token.strip() or "space", **centred)
    keys = [plt.Rectangle((0, 0), 1, 1, facecolor=colours[name]) for name in names]
    hatched = plt.Rectangle(
        (0, 0), 1, 1, facecolor="white", edgecolor="grey", hatch="////"
    )
    axis.legend([*keys, hatched], [*names, "not pooled"], **style.BESIDE)
    axis.set(xlim=(0, width), ylim=(rows, 0))
    axis.axis("off")
    left = [
        token.strip() for token, kept in zip(tokens, pooled, strict=True) if not kept
    ]
    return fig, (
        f"A text of {len(tokens)} tokens with its template; not pooled: "
        f"{' '.join(left) or 'none'}."
    )


def attention_matrices(
    tokens: Sequence[str],
    matrices: Mapping[str, np.ndarray],
    relative: Mapping[str, np.ndarray],
) -> Plot:
    """By direction of attention: mean over heads, its column sums, sums over even.

    `matrices` are (heads, n, n), `relative` what each token receives (n,) of what an
    even attention of that direction would give.
    """
    fig, axes = canvas(
        8, 6.4, 3, len(matrices), sharex=True, sharey="row", squeeze=False,
        gridspec_kw={"height_ratios": [4, 1, 1]},
    )  # fmt: skip
    places, found = np.arange(len(tokens)), []
    scale = {"cmap": "cividis", "norm": LogNorm(1e-3, 1), "aspect": "auto"}
    for (name, matrix), column in zip(matrices.items(), axes.T, strict=True):
        mean = np.ma.masked_equal(matrix.mean(0), 0)
        column[0].set(title=f"{name}: last layer, mean over heads")
        column[0].grid(False)
        shown = column[0].imshow(mean, **scale)
        for axis, sums in zip(column[1:], (mean.sum(0), relative[name]), strict=True):
            axis.bar(places, sums, color=style.PALETTE[0])
            axis.axhline(1, **REFERENCE)
            axis.grid(False, axis="x")
        column[2].set_xlabel("token that is looked at")
        column[2].set_xticks(places, tokens, rotation=90, fontsize=9)
        raw, share = (int(np.argmax(s)) for s in (mean.sum(0), relative[name]))
        found.append(
            f"{name}, {tokens[raw].strip()!r} receives most ({mean.sum(0)[raw]:.1f}), "
            f"and of an even share {tokens[share].strip()!r} "
            f"({relative[name][share]:.1f})"
        )
    fig.colorbar(shown, ax=axes[0, -1], label="attention")
    axes[0, 0].set_yticks(places, tokens, fontsize=9)
    for axis, label in zip(
        axes[:, 0], ("token that looks", "sum", "over even"), strict=True
    ):
        axis.set_ylabel(label)
    return fig, f"Attention among {len(tokens)} tokens: {'; '.join(found)}."


def weight_strips(tokens: Sequence[str], weights: Mapping[str, np.ndarray]) -> Plot:
    """One strip a pooling: what each token weighs, of an even share of the text.

    `weights` (n,) sum to one; a token that weighs nothing is left white.
    """
    shares = np.stack([np.asarray(w) * len(tokens) for w in weights.values()])
    fig, axis = canvas(8, 1.5 + 0.35 * len(weights))
    shown = axis.imshow(
        np.ma.masked_equal(shares, 0), cmap="cividis", norm=LogNorm(0.05, 20),
        aspect="auto",
    )  # fmt: skip
    axis.set_xticks(range(len(tokens)), tokens, rotation=90, fontsize=9)
    axis.set_yticks(range(len(weights)), weights)
    axis.grid(False)
    fig.colorbar(shown, ax=axis, label="of an even share")
    found = [
        f"{name}, {tokens[row.argmax()].strip()!r} {row.max():.1f}"
        for name, row in zip(weights, shares, strict=True)
    ]
    return fig, f"Heaviest token, in even shares: {'; '.join(found)}."


def by_series(
    table: pd.DataFrame, row: str, series: str, label: str, *, even=False, form=".3f"
) -> Plot:
    """A line for each value of column `row`, a mark for each value of `series`.

    Columns `row`, `series`, mean and, where there are intervals, low and high. `even`:
    shares of an even attention, on a logarithmic axis with a line at 1.
    """
    fig, axis = canvas(height=0.32 * table[row].nunique() + 0.9)
    style.forest(axis, table, row, series=series)
    axis.set_xlabel(label)
    if even:
        axis.axvline(1, **REFERENCE)
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
    found = []
    for name, part in table.groupby(series, sort=False):
        ends = dict.fromkeys([part["mean"].idxmax(), part["mean"].idxmin()])
        found.append(f"{name} {told(part.loc[[*ends]], row, form=form)}")
    return fig, f"{label}, highest and lowest: {'; '.join(found)}."


def classes_by_layer(table: pd.DataFrame, kept: int) -> Plot:
    """Attention received by class of token and layer, a panel for each direction.

    Columns direction, layer, class, mean (of an even share); a line stands behind the
    first `kept` layers.
    """
    groups = table.groupby("direction", sort=False)
    fig, axes = canvas(8, 2.4 * len(groups) + 0.3, len(groups), 1, squeeze=False)
    found = []
    for axis, (name, part) in zip(axes[:, 0], groups, strict=True):
        wide = part.pivot(index="class", columns="layer", values="mean")
        wide = wide.loc[list(dict.fromkeys(part["class"]))]
        sns.heatmap(
            wide, cmap="PuOr_r", norm=LogNorm(1 / 20, 20), ax=axis,
            cbar_kws={"label": "of an even share", "format": "{x:g}"},
        )  # fmt: skip
        axis.axvline(kept, **REFERENCE)
        axis.set(title=name, xlabel="layer", ylabel="")
        axis.set_yticklabels(axis.get_yticklabels(), rotation=0)
        best, last = part.loc[part["mean"].idxmax()], wide.iloc[:, -1]
        found.append(
            f"{name}, {best['class']} in layer {best['layer']} ({best['mean']:.1f}), "
            f"and in the last layer {last.idxmax()} ({last.max():.1f})"
        )
    return fig, f"Class that receives most: {'; '.join(found)}."
