"""The plots of mining: data frames in, a figure and its one-line description out."""

from __future__ import annotations

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.ticker import PercentFormatter

from nbutils.figures import PALETTE, Plot, canvas, theme


def overlap_matrix(pairs: pd.DataFrame) -> Plot:
    """Mean Jaccard overlap of every pair of teachers: one, other, jaccard."""
    means = pairs.groupby(["one", "other"], sort=False)["jaccard"].mean()
    names = list(dict.fromkeys([*pairs["one"], *pairs["other"]]))
    table = pd.DataFrame(1.0, index=names, columns=names)
    for (one, other), value in means.items():
        table.loc[one, other] = table.loc[other, one] = value
    fig, axis = canvas(6.4, 4.2)
    sns.heatmap(
        table, annot=True, fmt=".2f", cmap="cividis", vmin=0, vmax=1, ax=axis,
        cbar_kws={"label": "Jaccard overlap"},
    )  # fmt: skip
    least, most = means.idxmin(), means.idxmax()
    return fig, (
        f"Overlap of what {len(names)} teachers mine: least {' and '.join(least)} "
        f"({means.min():.2f}), most {' and '.join(most)} ({means.max():.2f})."
    )


RANKS = [*range(1, 17), 21, 31, 51, 101]
"""First rank of each bar of a rank histogram; the last bar has no end."""


def rank_histogram(negatives: pd.DataFrame) -> Plot:
    """At which rank each method's negatives stand: method, rank, planted (bool).

    Ranks are the teacher's in the whole corpus, positives counted; planted answers are
    the dark part of a bar.
    """
    labels = [
        str(first) if last - first == 1 else f"{first}–{last - 1}"
        for first, last in itertools.pairwise(RANKS)
    ] + [f"> {RANKS[-1] - 1}"]
    methods = list(dict.fromkeys(negatives["method"]))
    theme()
    fig, axes = plt.subplots(
        len(methods), figsize=(7.4, 0.6 + 0.95 * len(methods)), sharex=True,
        sharey=True, squeeze=False, layout="constrained",
    )  # fmt: skip
    told = []
    for number, (method, axis) in enumerate(zip(methods, axes[:, 0], strict=True)):
        own = negatives[negatives["method"] == method]
        bar = np.digitize(own["rank"], RANKS) - 1
        for rows, colour, label in (
            (np.ones(len(own), bool), PALETTE[number], "not known to answer"),
            (own["planted"].to_numpy(bool), "black", "planted answer"),
        ):
            share = np.bincount(bar[rows], minlength=len(RANKS)) / max(1, len(own))
            axis.bar(range(len(RANKS)), share, color=colour, width=0.85, label=label)
        low, middle, high = own["rank"].quantile([0.1, 0.5, 0.9])
        told.append(f"{method} {middle:.0f} ({low:.0f} to {high:.0f})")
        axis.set_ylabel(method, rotation=0, ha="right", va="center")
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.grid(axis="x", visible=False)
    axes[0, 0].legend(fontsize=8, frameon=False, loc="upper right")
    axes[-1, 0].set_xticks(range(len(RANKS)), labels, rotation=90, fontsize=8)
    axes[-1, 0].set_xlabel("rank in the teacher's list (the last bars hold many ranks)")
    return fig, (
        "Rank of the mined negatives, median (and 10th to 90th percentile): "
        f"{', '.join(told)}."
    )


def scaling(curve: pd.DataFrame) -> Plot:
    """Seconds and memory against documents: documents, ours, bare (s), memory (MB)."""
    fig, (left, right) = canvas(8.4, 3.4, columns=2)
    left.plot(curve["documents"], curve["ours"], "o-", color=PALETTE[0], label="search")
    left.plot(
        curve["documents"], curve["bare"], "s--", color=PALETTE[1],
        label="bare float32 product and top-k",
    )  # fmt: skip
    left.set(xscale="log", yscale="log", xlabel="documents", ylabel="seconds")
    left.legend(frameon=False, fontsize=8)
    right.plot(curve["documents"], curve["memory"], "o-", color=PALETTE[0])
    right.set(xscale="log", xlabel="documents", ylabel="MB beside the vectors")
    right.set_ylim(0, None)
    told = "; ".join(
        f"{row.documents:,}: {row.ours / row.bare:.2f} of the bare time, "
        f"{row.memory:.0f} MB"
        for row in curve.itertuples()
    )
    return fig, f"Exact search as the corpus grows, documents: {told}."
