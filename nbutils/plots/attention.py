"""Plots of anchor tokens: blocks, layers, directions, poolings before and after.

As in `figures`: data frames and arrays in, a figure and its one-line description out.
"""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns

from nbutils.plots.style import (
    LINES,
    MARKERS,
    PALETTE,
    Plot,
    canvas,
    dots_with_intervals,
    theme,
)


def attention_with_columns(tokens: list[str], attention: np.ndarray) -> Plot:
    """Mean attention over heads (n, n) as a matrix, with what each column receives."""
    theme()
    mean, received = attention.mean(0), attention.mean(0).sum(0)
    fig, (top, bottom) = plt.subplots(
        2,
        1,
        figsize=(7, 6.4),
        layout="constrained",
        sharex=True,
        gridspec_kw={"height_ratios": [4, 1]},
    )
    sns.heatmap(
        mean,
        ax=top,
        cmap="cividis",
        cbar_kws={"label": "attention"},
        yticklabels=tokens,
        xticklabels=tokens,
    )
    top.set(ylabel="token that attends", title="Last layer, mean over heads")
    bottom.bar(np.arange(len(tokens)) + 0.5, received, color=PALETTE[0])
    bottom.axhline(1, color="black", linestyle="--", linewidth=1)
    bottom.set(ylabel="received", xlabel="token that is attended to")
    bottom.set_xticks(np.arange(len(tokens)) + 0.5, tokens, rotation=90, fontsize=8)
    best = int(received.argmax())
    return fig, (
        f"Attention matrix of a sentence of {len(tokens)} tokens and its column sums: "
        f"{tokens[best]!r} receives most, {received[best]:.1f} times an even share."
    )


def heat_strips(
    entries: list[dict], weights: list[np.ndarray], width: int = 16
) -> Plot:
    """ATA weights of whole texts, `width` tokens a row, in even shares (1 = 1/n)."""
    theme()
    rows = []
    for entry, weight in zip(entries, weights, strict=True):
        share = weight * len(weight)
        for start in range(0, len(share), width):
            stop = start + width
            rows.append((entry["tokens"][start:stop], share[start:stop]))
        rows.append(([], np.array([])))
    rows = rows[:-1]
    fig, axis = plt.subplots(figsize=(8, 0.36 * len(rows) + 0.6), layout="constrained")
    grid = np.full((len(rows), width), np.nan)
    for r, (_, share) in enumerate(rows):
        grid[r, : len(share)] = share
    image = axis.imshow(grid, cmap="cividis", aspect="auto")
    middle = (np.nanmax(grid) + np.nanmin(grid)) / 2
    for r, (tokens, share) in enumerate(rows):
        for c, token in enumerate(tokens):
            colour = "black" if share[c] > middle else "white"
            shown = token if len(token) < 10 else token[:8] + "…"
            axis.text(c, r, shown, ha="center", va="center", color=colour, fontsize=6.5)
    axis.axis("off")
    fig.colorbar(image, ax=axis, label="weight, in even shares", shrink=0.9)
    last = [
        e["tokens"][int(np.argmax(w))] for e, w in zip(entries, weights, strict=True)
    ]
    return fig, (
        f"ATA weights of {len(entries)} texts as heat strips; the heaviest tokens are "
        + ", ".join(repr(token) for token in last)
        + "."
    )


def anchor_classes(means: pd.DataFrame) -> Plot:
    """Mean relative weight by token class with 95 % intervals."""
    fig, axis = canvas(6.5, 2.6)
    place = np.arange(len(means))
    error = [means["mean"] - means["low"], means["high"] - means["mean"]]
    axis.barh(place, means["mean"], xerr=error, color=PALETTE[0], capsize=4)
    axis.axvline(1, color="black", linestyle="--", linewidth=1)
    axis.set_yticks(place, means["class"])
    axis.invert_yaxis()
    axis.set_xlabel("ATA weight, in even shares (1 = every token alike)")
    told = [
        f"{r['class']} {r['mean']:.2f} [{r['low']:.2f}, {r['high']:.2f}]"
        for _, r in means.iterrows()
    ]
    return fig, "ATA weight by class of token, in even shares: " + "; ".join(told) + "."


def pooling_scores(table: pd.DataFrame) -> Plot:
    """NDCG@10 of each pooling with its interval: columns pooling, mean, low, high."""
    fig, axis = canvas(6.5, 2.8)
    dots_with_intervals(axis, table, table["pooling"])
    axis.set_xlabel("NDCG@10 on the development queries")
    told = "; ".join(
        f"{r['pooling']} {r['mean']:.3f} [{r['low']:.3f}, {r['high']:.3f}]"
        for _, r in table.iterrows()
    )
    return fig, (f"NDCG@10 before training by pooling, with 95 % intervals: {told}.")


def sums_by_block(tokens: Sequence[str], running: np.ndarray, rows: int) -> Plot:
    """Running sums (blocks, tokens) of what each token received, `rows` queries each.

    Drawn in even shares of the final sum, so the last row is ATA's weights.
    """
    theme()
    shares = running / running[-1].mean()
    height = 0.4 * len(running) + 1.6
    figure, axis = plt.subplots(figsize=(7.5, height), layout="constrained")
    sns.heatmap(
        shares,
        ax=axis,
        cmap="cividis",
        xticklabels=list(tokens),
        yticklabels=[f"{(i + 1) * rows}" for i in range(len(running))],
        cbar_kws={"label": "even shares"},
    )
    axis.set_ylabel("after so many queries")
    axis.set_xticklabels(axis.get_xticklabels(), rotation=90, fontsize=8)
    first, last = int(shares[0].argmax()), int(shares[-1].argmax())
    return figure, (
        f"Sums of attention received, in {len(running)} blocks of {rows} queries: "
        f"{tokens[first]!r} leads after the first block, {tokens[last]!r} after the "
        f"last with {shares[-1][last]:.2f} even shares."
    )


def _lines(axis, table: pd.DataFrame, by: str, along: str) -> None:
    """A line for each value of `by` with its interval, told apart without colour."""
    for number, (name, part) in enumerate(table.groupby(by, sort=False)):
        error = [part["mean"] - part["low"], part["high"] - part["mean"]]
        axis.errorbar(
            part[along],
            part["mean"],
            yerr=error,
            label=name,
            color=PALETTE[number],
            marker=MARKERS[number],
            linestyle=LINES[number],
            capsize=3,
        )
    axis.axhline(1, color="black", linestyle="--", linewidth=1)
    axis.set_xticks(sorted(table[along].unique()))
    axis.set_ylabel("weight, in even shares")
    axis.legend(frameon=False, fontsize=8)


def classes_by_layer(table: pd.DataFrame) -> Plot:
    """Weight of each class of token by layer: layer, class, mean, low, high."""
    figure, axis = canvas(6.5, 3.2)
    _lines(axis, table, "class", "layer")
    axis.set_xlabel("layer")
    told = []
    for number in (table["layer"].min(), table["layer"].max()):
        part = table[table["layer"] == number]
        best = part.loc[part["mean"].idxmax()]
        told.append(f"in layer {number} {best['class']} ({best['mean']:.2f})")
    return figure, (
        "ATA weight by class of token and layer, with 95 % intervals; the heaviest "
        f"class is {' and '.join(told)}."
    )


def by_direction(table: pd.DataFrame) -> Plot:
    """Weight by part of the text: direction, part, mean, low, high."""
    figure, axis = canvas(6.5, 3.0)
    _lines(axis, table, "direction", "part")
    axis.set_xlabel("part of the text, from first to last")
    ends = table.sort_values("part").groupby("direction", sort=False)["mean"]
    told = "; ".join(
        f"{name} {values.iloc[0]:.2f} to {values.iloc[-1]:.2f}" for name, values in ends
    )
    return figure, (
        "ATA weight of the first to the last part of a text by direction of "
        f"attention, random weights, in even shares: {told}."
    )


def pooling_before_after(table: pd.DataFrame, split: str) -> Plot:
    """NDCG@10 of each pooling before and after training: pooling, before, after."""
    figure, axis = canvas(6.5, 2.8)
    place = np.arange(len(table))
    axis.hlines(place, table["before"], table["after"], color="grey", linewidth=1)
    for number, when in enumerate(("before", "after")):
        axis.scatter(
            table[when], place, marker=MARKERS[number], color=PALETTE[number],
            label=f"{when} training", zorder=3,
        )  # fmt: skip
    axis.set_yticks(place, table["pooling"])
    axis.invert_yaxis()
    axis.set_xlabel("NDCG@10")
    axis.legend(frameon=False, fontsize=8)
    told = "; ".join(
        f"{r['pooling']} {r['before']:.3f} to {r['after']:.3f}"
        for _, r in table.iterrows()
    )
    return figure, f"NDCG@10 before and after training by pooling, {split}: {told}."
