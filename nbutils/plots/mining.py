"""The plots of mining: data frames in, a figure and its one-line description out."""

from __future__ import annotations

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.ticker import PercentFormatter

from nbutils.plots.style import (
    LINES,
    MARKERS,
    PALETTE,
    Plot,
    canvas,
    dots,
    share_with_interval,
    theme,
    with_interval,
)


def rank_curves(ranks: pd.DataFrame, depth: int) -> Plot:
    """Share of positives ranked at or above each rank.

    ranks: teacher, kind ("labelled" or "planted"), query_id, rank. `depth` is the
    candidate table's.
    """
    fig, axis = canvas(7.0, 3.2)
    found = []
    groups = ranks.groupby(["teacher", "kind"], sort=False)
    teachers = list(dict.fromkeys(ranks["teacher"]))
    for (teacher, kind), part in groups:
        order = np.sort(part["rank"].to_numpy())
        axis.step(
            order, np.arange(1, len(order) + 1) / len(order), where="post",
            color=PALETTE[teachers.index(teacher)], ls=LINES[kind != "labelled"],
            label=f"{teacher}, {kind}",
        )  # fmt: skip
        first = share_with_interval(part["rank"] <= 10, part["query_id"])
        found.append(f"{teacher}, {kind} {first}")
    axis.axvline(depth, color="black", lw=1, ls=":", label=f"table's depth, {depth}")
    axis.set(xscale="log", xlabel="rank in the corpus", ylabel="share at or above")
    axis.set_ylim(0, 1)
    axis.legend(frameon=False, fontsize=8, loc="lower right")
    return fig, f"True positives among a teacher's first 10: {', '.join(found)}."


def score_clouds(candidates: pd.DataFrame, ceilings: pd.DataFrame) -> Plot:
    """Candidates' scores against their positive's, with each method's ceiling.

    candidates: query_id, positive_score, score, planted (bool); ceilings: method,
    positive_score, ceiling.
    """
    fig, axis = canvas(7.0, 3.6)
    others, planted = (candidates[candidates["planted"] == flag] for flag in (0, 1))
    axis.scatter(
        others["positive_score"], others["score"], s=5, color="0.7", lw=0,
        antialiased=False, label="other candidates",
    )  # fmt: skip
    axis.scatter(
        planted["positive_score"], planted["score"], s=14, marker="^", lw=0,
        antialiased=False, color=PALETTE[3], label="planted positives",
    )  # fmt: skip
    share = []
    for number, (method, line) in enumerate(ceilings.groupby("method", sort=False)):
        axis.plot(
            line["positive_score"], line["ceiling"], color=PALETTE[number], lw=2,
            ls=LINES[number % len(LINES)], label=f"ceiling of {method}",
        )  # fmt: skip
        limit = np.interp(
            planted["positive_score"], line["positive_score"], line["ceiling"]
        )
        below = share_with_interval(planted["score"] < limit, planted["query_id"])
        share.append(f"{method} {below}")
    axis.set(xlabel="score of the labelled positive", ylabel="score of the candidate")
    axis.legend(bbox_to_anchor=(1.01, 1), loc="upper left", fontsize=8, frameon=False)
    return fig, (
        f"Planted positives that stay below each ceiling and can be mined: "
        f"{', '.join(share)} of {len(planted)} in the tables."
    )


def false_negative_rates(rates: pd.DataFrame, published: float) -> Plot:
    """Share of planted positives among the mined, by method and selection.

    rates: method, selection, value, low, high; `published` is the paper's naive share.
    """
    methods, selections = (
        list(dict.fromkeys(rates[name])) for name in ("method", "selection")
    )
    fig, axis = canvas(7.4, 1.2 + 0.5 * len(methods))
    for number, selection in enumerate(selections):
        rows = rates[rates["selection"] == selection].set_index("method").loc[methods]
        places = np.arange(len(methods)) + 0.22 * (number - (len(selections) - 1) / 2)
        dots(axis, rows, places, number, selection)
    axis.axvline(published, color="black", ls=":", label="paper, naive on NQ (judge)")
    axis.set(xlabel="share of mined negatives that are planted answers", xlim=(0, None))
    axis.set_yticks(range(len(methods)), methods)
    axis.invert_yaxis()
    axis.legend(bbox_to_anchor=(1.01, 1), loc="upper left", fontsize=8, frameon=False)
    top = rates[rates["selection"] == selections[0]].dropna()
    found = ", ".join(
        f"{r.method} {r.value:.0%} ({r.low:.0%} to {r.high:.0%})"
        for r in top.itertuples()
    )
    return fig, (
        f"False negatives with {selections[0]}: {found}; the paper's judge found "
        f"{published:.1%} with naive mining on NQ."
    )


def hardness_tradeoff(grid: pd.DataFrame) -> Plot:
    """False negatives against hardness over each method's grid.

    grid: method, setting, rate, low, high, hardness, best (the paper's setting), full
    (share of queries with all negatives).
    """
    fig, axis = canvas(7.0, 3.8)
    found = []
    for number, (method, part) in enumerate(grid.groupby("method", sort=False)):
        part = part.sort_values("hardness")
        colour, marker = PALETTE[number], MARKERS[number]
        axis.plot(
            part["hardness"], part["rate"], color=colour, marker=marker, ms=3,
            ls=LINES[number % len(LINES)], label=method,
        )  # fmt: skip
        for row in part[part["best"]].itertuples():
            axis.plot(row.hardness, row.rate, marker, ms=11, color=colour, mec="k")
            text = f"{method} {row.setting:g}" if row.setting else method
            axis.annotate(
                text, (row.hardness, row.rate), xytext=(-8, 8), fontsize=8,
                textcoords="offset points", ha="right",
            )  # fmt: skip
            rate = with_interval(row.rate, row.low, row.high)
            found.append(f"{text} {row.hardness:.2f} and {rate}")
    axis.set(
        xlabel="hardness: true negatives' mean score / positives' mean score",
        ylabel="share of false negatives",
    )
    if len(grid):
        low, high = grid["hardness"].min(), grid["hardness"].max()
        axis.set_xlim(max(low, high - 0.4) - 0.02, None)
        axis.legend(frameon=False, fontsize=8, loc="upper left")
    return fig, (
        "Hardness and false negatives at the paper's best settings (large marks): "
        f"{'; '.join(found) or 'none mined enough here'}."
    )


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
