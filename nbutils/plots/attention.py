"""Plots of page 04: the template, attention, anchors by class and layer, poolings."""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.colors import LogNorm
from matplotlib.patches import Patch, Rectangle

from nbutils.plots import style
from nbutils.plots.style import REFERENCE, Plot, canvas, told_by

HATCH = "////"


def token_strip(
    tokens: Sequence[str], pooled: Sequence[float], parts: Sequence[str], width=7
) -> Plot:
    """Tokens in reading order, `width` a row, coloured by their part of the format.

    `pooled` (n,) is 1 where a token is pooled; what is left out is hatched.
    """
    names = list(dict.fromkeys(parts))
    colours = dict(zip(names, sns.color_palette("pastel", len(names)), strict=True))
    rows, left = -(-len(tokens) // width), []
    # as high as the tokens' rows or the legend's lines
    fig, axis = canvas(8, max(0.45 * rows + 0.3, 0.2 * (len(names) + 2)))
    centred = style.CENTRED | {"fontsize": 8}
    cells = zip(tokens, parts, pooled, strict=True)
    for place, (token, part, kept) in enumerate(cells):
        row, column = divmod(place, width)
        look = {"facecolor": colours[part], "hatch": None if kept else HATCH}
        axis.add_patch(Rectangle((column, row), 0.96, 0.9, edgecolor="grey", **look))
        behind = {"facecolor": colours[part], "edgecolor": "none", "pad": 1}
        shown = token.strip() or "space"
        axis.text(column + 0.48, row + 0.45, shown, bbox=behind, **centred)
        if not kept:
            left.append(token.strip())
    keys = [Patch(facecolor=colours[name], label=name) for name in names]
    hatched = {"facecolor": "white", "edgecolor": "grey", "hatch": HATCH}
    keys.append(Patch(**hatched, label="not pooled"))
    axis.legend(handles=keys, **style.BESIDE)
    axis.set(xlim=(0, width), ylim=(rows, 0))
    axis.axis("off")
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
    places, found = range(len(tokens)), []
    scale = {"cmap": "cividis", "norm": LogNorm(1e-3, 1), "aspect": "auto"}
    told_of = "{}, {!r} receives most ({:.1f}), and of an even share {!r} ({:.1f})"
    for (name, matrix), (square, *bars) in zip(matrices.items(), axes.T, strict=True):
        mean, most = np.ma.masked_equal(matrix.mean(0), 0), []
        square.set(title=f"{name}: last layer, mean over heads")
        square.grid(False)
        shown = square.imshow(mean, **scale)
        for axis, sums in zip(bars, (mean.sum(0), relative[name]), strict=True):
            axis.bar(places, sums, color=style.PALETTE[0])
            axis.axhline(1, **REFERENCE)
            axis.grid(False, axis="x")
            first = np.argmax(sums)
            most += [tokens[first].strip(), sums[first]]
        axis.set_xlabel("token that is looked at")
        axis.set_xticks(places, tokens, rotation=90, fontsize=9)
        found.append(told_of.format(name, *most))
    fig.colorbar(shown, ax=axes[0, -1], label="attention")
    axes[0, 0].set_yticks(places, tokens, fontsize=9)
    labels = "token that looks", "sum", "over even"
    for axis, label in zip(axes[:, 0], labels, strict=True):
        axis.set_ylabel(label)
    return fig, f"Attention among {len(tokens)} tokens: {'; '.join(found)}."


def weight_strips(tokens: Sequence[str], weights: Mapping[str, np.ndarray]) -> Plot:
    """One strip a pooling: what each token weighs, of an even share of the text.

    `weights` (n,) sum to one; a token that weighs nothing is left white.
    """
    shares = np.stack([*weights.values()]) * len(tokens)
    fig, axis = canvas(8, 1.5 + 0.35 * len(weights))
    scale = {"cmap": "cividis", "norm": LogNorm(0.05, 20), "aspect": "auto"}
    shown = axis.imshow(np.ma.masked_equal(shares, 0), **scale)
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

    Numbers are in column mean. `even`: shares of an even attention, on a logarithmic
    axis with a line at 1.
    """
    fig, axis = canvas(height=0.32 * table[row].nunique() + 0.9)
    style.forest(axis, table, row, series=series)
    axis.set_xlabel(label)
    if even:
        axis.axvline(1, **REFERENCE)
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter("{x:g}")
    means = table.groupby(series, sort=False)["mean"]
    ends = means.agg(["idxmax", "idxmin"]).stack().drop_duplicates()
    found = told_by(table.loc[ends], series, row, form=form, sep=" ")
    return fig, f"{label}, highest and lowest: {found}."


def classes_by_layer(table: pd.DataFrame, kept: int) -> Plot:
    """Attention received by class of token and layer, a panel for each direction.

    Columns direction, layer, class, mean (of an even share); a line stands behind the
    first `kept` layers.
    """
    groups = table.groupby("direction", sort=False)
    fig, axes = canvas(8, 2.4 * len(groups) + 0.3, len(groups), squeeze=False)
    found = []
    for axis, (name, part) in zip(axes[:, 0], groups, strict=True):
        wide = part.pivot(index="class", columns="layer", values="mean")
        wide = wide.loc[list(dict.fromkeys(part["class"]))]
        bar = {"label": "of an even share", "format": "{x:g}"}
        scale = {"cmap": "PuOr_r", "norm": LogNorm(1 / 20, 20), "cbar_kws": bar}
        sns.heatmap(wide, ax=axis, **scale)
        axis.axvline(kept, **REFERENCE)
        axis.set(title=name, xlabel="layer", ylabel="")
        axis.tick_params("y", rotation=0)
        best, last = part.loc[part["mean"].idxmax()], wide.iloc[:, -1]
        found.append(
            f"{name}, {best['class']} in layer {best['layer']} ({best['mean']:.1f}), "
            f"and in the last layer {last.idxmax()} ({last.max():.1f})"
        )
    return fig, f"Class that receives most: {'; '.join(found)}."
