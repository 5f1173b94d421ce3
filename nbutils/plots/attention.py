"""Plots of page 04: attention, anchor tokens by class and layer, poolings."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
import seaborn as sns

from nbutils.plots import style
from nbutils.plots.style import REFERENCE, Plot, canvas, readable, told


def attention_with_columns(tokens: Sequence[str], attention: np.ndarray) -> Plot:
    """Mean over heads of (heads, n, n) as a matrix, with what each column receives."""
    mean = attention.mean(0)
    received, places = mean.sum(0), np.arange(len(tokens)) + 0.5
    ratio = {"height_ratios": [4, 1]}
    fig, (top, bottom) = canvas(7, 6.4, rows=2, sharex=True, gridspec_kw=ratio)
    colours = {"cmap": "cividis", "cbar_kws": {"label": "attention"}}
    sns.heatmap(mean, ax=top, yticklabels=tokens, **colours)
    top.set(ylabel="token that attends", title="Last layer, mean over heads")
    bottom.bar(places, received, color=style.PALETTE[0])
    bottom.axhline(1, **REFERENCE)
    bottom.set(ylabel="received", xlabel="token that is attended to")
    bottom.set_xticks(places, tokens, rotation=90)
    best = int(received.argmax())
    return fig, (
        f"Attention matrix of a sentence of {len(tokens)} tokens and its column sums: "
        f"{tokens[best]!r} receives most, {received[best]:.1f} times an even share."
    )


def sums_by_block(tokens: Sequence[str], running: np.ndarray, rows: int) -> Plot:
    """Running sums (blocks, tokens) of what each token received, `rows` queries each.

    Drawn in even shares of the final sum, so the last row is ATA's weights.
    """
    shares = running / running[-1].mean()
    fig, axis = canvas(height=0.4 * len(running) + 1.6)
    queries = [(block + 1) * rows for block in range(len(running))]
    colours = {"cmap": "cividis", "cbar_kws": {"label": "even shares"}}
    sns.heatmap(shares, ax=axis, xticklabels=tokens, yticklabels=queries, **colours)
    axis.set(xlabel="token that is attended to", ylabel="after so many queries")
    axis.tick_params("x", rotation=90)
    axis.tick_params("y", rotation=0)
    first, last = int(shares[0].argmax()), int(shares[-1].argmax())
    return fig, (
        f"Sums of attention received, in {len(running)} blocks of {rows} queries: "
        f"{tokens[first]!r} leads after the first block, {tokens[last]!r} after the "
        f"last with {shares[-1][last]:.2f} even shares."
    )


def heat_strips(entries: list[dict], weights: list[np.ndarray], width=12) -> Plot:
    """ATA weights of whole texts, `width` tokens a row, in even shares (1 = 1/n)."""
    shares, shown, heaviest = [], [], []
    for entry, weight in zip(entries, weights, strict=True):
        tokens, count = entry["tokens"], len(weight)
        rest = width + -count % width  # fills the last row, and leaves a row between
        shares += [*weight * count, *[np.nan] * rest]
        shown += [t if len(t) < 9 else f"{t[:7]}…" for t in tokens] + [""] * rest
        heaviest.append(repr(tokens[int(np.argmax(weight))]))
    grid, labels = (np.reshape(cells, (-1, width))[:-1] for cells in (shares, shown))
    fig, axis = canvas(8, 0.32 * len(grid) + 0.6)
    sns.heatmap(
        grid, ax=axis, xticklabels=False, yticklabels=False, **style.LIGHT,
        annot=labels, fmt="", cbar_kws={"label": "weight, in even shares"},
    )  # fmt: skip
    return fig, (
        f"ATA weights of {len(entries)} texts as heat strips; the heaviest tokens are "
        f"{', '.join(heaviest)}."
    )


def anchor_classes(means: pd.DataFrame) -> Plot:
    """Mean weight of a token by its class: columns class, mean, low, high."""
    fig, axis = canvas(height=2.6)
    axis.axvline(1, **REFERENCE)
    style.forest(axis, means, "class")
    axis.set_xlabel("ATA weight, in even shares (1 = every token alike)")
    axis.set_xlim(0, None)
    found = told(means, "class", form=".2f")
    return fig, f"ATA weight by class of token, in even shares: {found}."


def weights_along(table: pd.DataFrame, along: str, series: str, label: str) -> Plot:
    """Weight of a token along layers or parts of a text, a line for each `series`.

    Columns `along` (numbers, whose axis is called `label`), `series`, mean, low, high.
    """
    fig, axis = canvas()
    axis.axhline(1, **REFERENCE)
    style.curves(axis, table, along, series=series)
    axis.set(xlabel=label, ylabel="ATA weight, in even shares")
    axis.set_xticks(sorted(table[along].unique()))
    ends = table.sort_values(along).groupby(series, sort=False)["mean"]
    ends = ends.agg(["first", "last"]).itertuples()
    found = "; ".join(f"{name} {a:.2f} to {b:.2f}" for name, a, b in ends)
    return fig, f"ATA weight in even shares, first to last {label}: {found}."


def pooling_scores(table: pd.DataFrame) -> Plot:
    """NDCG@10 of each pooling with its interval: columns pooling, mean, low, high."""
    fig, axis = canvas(height=2.8)
    style.forest(axis, table, "pooling")
    axis.set_xlabel("NDCG@10 on the development queries")
    found = told(table, "pooling")
    return fig, f"NDCG@10 before training by pooling, with 95 % intervals: {found}."


def pooling_before_after(table: pd.DataFrame, split: str) -> Plot:
    """NDCG@10 of each pooling before and after training: pooling, before, after."""
    fig, axis = canvas(height=2.8)
    axis.hlines(range(len(table)), table["before"], table["after"], color="grey", lw=1)
    both = table.melt("pooling", ["before", "after"], var_name="when")
    both["when"] += " training"
    style.forest(axis, both, "pooling", "value", "when", gap=0)
    axis.set_xlabel(f"NDCG@10, {split}")
    found = "; ".join(
        f"{readable(row.pooling)} {row.before:.3f} to {row.after:.3f}"
        for row in table.itertuples()
    )
    return fig, f"NDCG@10 before and after training by pooling, {split}: {found}."
