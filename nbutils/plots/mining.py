"""Plots of page 03: teachers' ranks, ceilings, false negatives, hardness."""

from __future__ import annotations

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.ticker import PercentFormatter

from nbutils.plots import style
from nbutils.plots.style import BESIDE, PALETTE, Plot, canvas, look, readable, told


def rank_curves(ranks: pd.DataFrame, depth: int) -> Plot:
    """Share of positives ranked at or above each rank.

    ranks: teacher, kind ("labelled" or "planted"), query_id, rank. `depth` is the
    candidate table's.
    """
    fig, axis = canvas()
    found = []
    teachers = list(dict.fromkeys(ranks["teacher"]))
    for (teacher, kind), part in ranks.groupby(["teacher", "kind"], sort=False):
        label, line = f"{readable(teacher)}, {kind}", style.LINES[kind == "planted"]
        colour = PALETTE[teachers.index(teacher)]
        axis.ecdf(part["rank"], label=label, color=colour, linestyle=line)
        first = style.share_with_interval(part["rank"] <= 10, part["query_id"])
        found.append(f"{label} {first}")
    axis.axvline(depth, color="black", lw=1, ls=":", label=f"table's depth, {depth}")
    axis.set(xscale="log", xlabel="rank in the corpus", ylabel="share at or above")
    axis.legend(**BESIDE)
    return fig, f"True positives among a teacher's first 10: {', '.join(found)}."


def score_clouds(candidates: pd.DataFrame, ceilings: pd.DataFrame) -> Plot:
    """Candidates' scores against their positive's, with each method's ceiling.

    candidates: query_id, positive_score, score, planted (bool); ceilings: method,
    positive_score, ceiling.
    """
    fig, axis = canvas(height=3.8)
    others, planted = (candidates[candidates["planted"] == flag] for flag in (0, 1))
    plain = {"x": "positive_score", "y": "score", "lw": 0, "antialiased": False}
    others.plot.scatter(**plain, s=5, color="0.7", label="other candidates", ax=axis)
    planted.plot.scatter(
        **plain, s=14, color=PALETTE[3], marker="^", label="planted positives", ax=axis
    )
    share = []
    for number, (method, line) in enumerate(ceilings.groupby("method", sort=False)):
        at, limit = line["positive_score"], line["ceiling"]
        lines = look(number) | {"marker": "", "label": f"ceiling of {readable(method)}"}
        axis.plot(at, limit, lw=2, **lines)
        below = planted["score"] < np.interp(planted["positive_score"], at, limit)
        found = style.share_with_interval(below, planted["query_id"])
        share.append(f"{readable(method)} {found}")
    axis.set(xlabel="score of the labelled positive", ylabel="score of the candidate")
    axis.legend(**BESIDE)
    return fig, (
        f"Planted positives that stay below each ceiling and can be mined: "
        f"{', '.join(share)} of {len(planted)} in the tables."
    )


def false_negative_rates(rates: pd.DataFrame, published: float) -> Plot:
    """Share of planted positives among the mined, by method and selection.

    rates: method, selection, value, low, high; `published` is the paper's naive share.
    """
    fig, axis = canvas(height=1.2 + 0.5 * rates["method"].nunique())
    axis.axvline(published, **style.REFERENCE, label="paper, Naive on\nNQ (judge)")
    style.forest(axis, rates, "method", "value", "selection")
    axis.set_xlabel("share of mined negatives that are planted answers")
    axis.set_xlim(-0.01, None)
    first = rates["selection"].iloc[0]
    found = told(rates[rates["selection"] == first], "method", "value", ".0%")
    return fig, (
        f"False negatives with {readable(first)}: {found}; the paper's judge found "
        f"{published:.1%} with naive mining on NQ."
    )


def hardness_tradeoff(grid: pd.DataFrame) -> Plot:
    """False negatives against hardness over each method's grid.

    grid: method, setting, rate, low, high, hardness, best (the paper's setting).
    """
    fig, axis = canvas(height=3.8)
    found = []
    for number, (method, part) in enumerate(grid.groupby("method", sort=False)):
        part, label = part.sort_values("hardness"), readable(method)
        for best in part[part["best"]].itertuples():
            axis.plot(best.hardness, best.rate, ms=11, mec="k", **look(number))
            label = f"{label} {best.setting:g}" if best.setting else label
            rate = style.with_interval(best.rate, best.low, best.high)
            found.append(f"{label} {best.hardness:.2f} and {rate}")
        axis.plot(part["hardness"], part["rate"], ms=3, label=label, **look(number))
    axis.set_xlabel("hardness: true negatives' mean score / positives' mean score")
    axis.set_ylabel("share of false negatives")
    if len(grid):
        low, high = grid["hardness"].min(), grid["hardness"].max()
        axis.set_xlim(max(low, high - 0.4) - 0.02, None)
        axis.legend(**BESIDE, title="large mark: the\npaper's setting")
    return fig, (
        "Hardness and false negatives at the paper's best settings (large marks): "
        f"{'; '.join(found) or 'none mined enough here'}."
    )


def overlap_matrix(pairs: pd.DataFrame) -> Plot:
    """Mean Jaccard overlap of every pair of teachers: one, other, jaccard."""
    names = list(dict.fromkeys([*pairs["one"], *pairs["other"]]))
    means = pairs.groupby(["one", "other"], sort=False)["jaccard"].mean()
    table = pd.concat([means, means.swaplevel()]).unstack()
    table = table.reindex(index=names, columns=names).fillna(1.0)  # each with itself
    fig, axis = canvas(6.4, 4.2)
    labels = [readable(name) for name in names]
    sns.heatmap(
        table, annot=True, fmt=".2f", vmin=0, vmax=1, ax=axis, **style.LIGHT,
        xticklabels=labels, yticklabels=labels, cbar_kws={"label": "Jaccard overlap"},
    )  # fmt: skip
    axis.set(xlabel="", ylabel="")
    least, most = (map(readable, pair) for pair in (means.idxmin(), means.idxmax()))
    return fig, (
        f"Overlap of what {len(names)} teachers mine: least {' and '.join(least)} "
        f"({means.min():.2f}), most {' and '.join(most)} ({means.max():.2f})."
    )


RANKS = [*range(1, 17), 21, 31, 51, 101, np.inf]
"""First rank of each bar of a rank histogram, and where the last one ends."""
BARS = [*map(str, range(1, 16)), "16–20", "21–30", "31–50", "51–100", "> 100"]


def rank_histogram(negatives: pd.DataFrame) -> Plot:
    """At which rank each method's negatives stand: method, rank, planted (bool).

    Ranks are the teacher's in the whole corpus, positives counted; planted answers are
    the dark part of a bar.
    """
    bars = pd.cut(negatives["rank"], RANKS, right=False, labels=BARS)
    methods = list(negatives.assign(bar=bars).groupby("method", sort=False))
    fig, axes = canvas(
        height=0.9 + 0.95 * len(methods), rows=len(methods), sharex=True, sharey=True,
        squeeze=False,
    )  # fmt: skip
    found = []
    for (method, own), axis in zip(methods, axes[:, 0], strict=True):
        for rows, colour, label in (
            (own, PALETTE[0], "not known to answer"),
            (own[own["planted"]], "black", "planted answer"),
        ):
            share = rows["bar"].value_counts(sort=False) / len(own)
            axis.bar(BARS, share, color=colour, width=0.85, label=label)
        low, middle, high = own["rank"].quantile([0.1, 0.5, 0.9])
        found.append(f"{readable(method)} {middle:.0f} ({low:.0f} to {high:.0f})")
        axis.set_ylabel(readable(method), rotation=0, ha="right", va="center")
        axis.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
        axis.grid(axis="x", visible=False)
    handles = axes[0, 0].get_legend_handles_labels()
    fig.legend(*handles, loc="outside upper center", ncols=2, frameon=False)
    axis.tick_params("x", rotation=90)
    axis.set_xlabel("rank in the teacher's list (the last bars hold many ranks)")
    return fig, (
        "Rank of the mined negatives, median (and 10th to 90th percentile): "
        f"{', '.join(found)}."
    )
