"""Plots of pages 03 and 03b: ceilings, false negatives, ranks, hardness, students."""

import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.ticker import PercentFormatter

from nbutils.plots import style
from nbutils.plots.style import BESIDE, PALETTE, Plot, canvas, readable, told


def one_query(candidates: pd.DataFrame, ceilings: dict[str, float]) -> Plot:
    """One query's candidates by their score, and each method's ceiling.

    candidates: score, kind ("other", "planted" or "labelled"); ceilings by method.
    """
    fig, axis = canvas(height=2.4)
    kinds = {"other": "0.6", "planted": PALETTE[3], "labelled": "black"}
    axis.set(xlabel="teacher's score", ylim=(-0.5, 2.5))
    axis.set_yticks(range(3), kinds)
    for row, (kind, marker) in enumerate(zip(kinds, "o^*", strict=True)):
        own = candidates.loc[candidates["kind"] == kind, "score"]
        axis.plot(own, 0 * own + row, marker, color=kinds[kind], ms=8)
    planted, found = candidates.query("kind == 'planted'")["score"], []
    for number, (method, limit) in enumerate(ceilings.items()):
        axis.axvline(limit, **_ceiling(number, method))
        below = (planted < limit).sum()
        found.append(f"{readable(method)} at {limit:.3f} leaves {below}")
    if ceilings:
        axis.legend(**BESIDE)
    return fig, (
        f"Of this query's {len(planted)} planted answers stay below the ceiling: "
        f"{', '.join(found) or 'none is drawn, the positive is not in the table'}."
    )


def _ceiling(number: int, method: str) -> dict:
    line = {"marker": "", "lw": 2, "label": f"ceiling of {readable(method)}"}
    return style.look(number) | line


def score_clouds(candidates: pd.DataFrame, ceilings: pd.DataFrame) -> Plot:
    """Candidates' scores against their positive's, with each method's ceiling.

    Columns query_id, positive_score, score, planted; method, positive_score, ceiling.
    """
    fig, axis = canvas(height=3.8)
    others, planted = (candidates[candidates["planted"] == flag] for flag in (0, 1))
    plain = {"x": "positive_score", "y": "score", "lw": 0, "antialiased": False}
    other = {"s": 5, "color": "0.7", "label": "other candidates"}
    others.plot.scatter(**plain, **other, ax=axis)
    marked = {"s": 14, "color": PALETTE[3], "label": "planted positives"}
    planted.plot.scatter(**plain, **marked, marker="^", ax=axis)
    found = []
    for number, (method, line) in enumerate(ceilings.groupby("method", sort=False)):
        at, limit = line["positive_score"], line["ceiling"]
        axis.plot(at, limit, **_ceiling(number, method))
        below = planted["score"] < np.interp(planted["positive_score"], at, limit)
        share = style.share_with_interval(below, planted["query_id"])
        found.append(f"{readable(method)} {share}")
    axis.set(xlabel="score of the labelled positive", ylabel="score of the candidate")
    axis.legend(**BESIDE)
    return fig, (
        f"Planted positives that stay below each ceiling and can be mined: "
        f"{', '.join(found)} of {len(planted)} in the tables."
    )


def false_negative_rates(rates: pd.DataFrame, published: float, cap: float) -> Plot:
    """Share of planted positives among the mined, by method and selection.

    rates: method, selection, value, low, high; `published` is the paper's naive share,
    `cap` the largest share that there can be.
    """
    fig, axis = canvas(height=1.2 + 0.5 * rates["method"].nunique())
    axis.axvline(published, **style.REFERENCE, label="paper, Naive on\nNQ (judge)")
    axis.axvline(cap, color="black", lw=2, label="cap: all that\nis planted")
    style.forest(axis, rates, "method", "value", "selection")
    axis.set_xlabel("share of mined negatives that are planted answers")
    axis.set_xlim(-0.01, None)
    first = rates["selection"].iloc[0]
    found = told(rates[rates["selection"] == first], "method", "value", ".0%")
    return fig, (
        f"False negatives with {readable(first)}: {found}; the paper's judge found "
        f"{published:.1%} with naive mining on NQ, and here {cap:.0%} is the most."
    )


def hardness_tradeoff(grid: pd.DataFrame) -> Plot:
    """False negatives against hardness over each method's grid.

    grid: method, setting, rate, low, high, hardness, best (the paper's setting).
    """
    fig, axis = canvas(height=3.8)
    for number, (method, part) in enumerate(grid.groupby("method", sort=False)):
        line, mark = part.sort_values("hardness"), part[part["best"]]
        cues = style.look(number)
        axis.plot("hardness", "rate", data=line, ms=3, label=readable(method), **cues)
        axis.plot("hardness", "rate", data=mark, ms=11, mec="k", label="", **cues)
    axis.set_xlabel("hardness: true negatives' mean score / positives' mean score")
    axis.set_ylabel("share of false negatives")
    if len(grid):
        low, high = grid["hardness"].agg(["min", "max"])
        axis.set_xlim(max(low, high - 0.4) - 0.02, None)
        axis.legend(**BESIDE, title="large mark: the\npaper's setting")
    best = grid[grid["best"]]
    pairs = zip(best["method"], best["hardness"], strict=True)
    best = best.assign(name=[f"{readable(m)}, hardness {h:.2f}:" for m, h in pairs])
    return fig, (
        "False negatives at the paper's settings (large marks): "
        f"{told(best, 'name', 'rate', '.0%') or 'none here'}."
    )


def overlap_matrix(pairs: pd.DataFrame) -> Plot:
    """Mean Jaccard overlap of every pair of teachers: one, other, jaccard."""
    names = list(dict.fromkeys([*pairs["one"], *pairs["other"]]))
    means = pairs.groupby(["one", "other"], sort=False)["jaccard"].mean()
    table = pd.concat([means, means.swaplevel()]).unstack()
    table = table.reindex(index=names, columns=names).fillna(1.0)  # each with itself
    table = table.rename(index=readable, columns=readable)
    fig, axis = canvas(6.4, 4.2)
    inside = {"annot": True, "fmt": ".2f", "annot_kws": {"color": "black", "size": 8}}
    scale = {"cmap": "Wistia", "vmin": 0, "vmax": 1}  # light enough for black texts
    bar = {"label": "Jaccard overlap"}
    sns.heatmap(table, ax=axis, **inside, **scale, cbar_kws=bar)
    axis.set(xlabel="", ylabel="")
    slanted = {"rotation": 30, "ha": "right", "rotation_mode": "anchor"}
    axis.set_xticks(axis.get_xticks(), table.columns, **slanted)
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
    methods = negatives.assign(bar=bars).groupby("method", sort=False)
    height, shared = 0.9 + 0.95 * len(methods), {"sharex": True, "sharey": True}
    fig, axes = canvas(7.6, height, len(methods), squeeze=False, **shared)
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


def student_differences(compared: pd.DataFrame) -> Plot:
    """What students gain over the one of naive negatives.

    compared: variant, difference, low, high, distinguishable.
    """
    fig, axis = canvas(height=3)
    axis.axvline(0, **style.REFERENCE)
    style.forest(axis, compared, "variant", "difference")
    axis.set_xlabel("NDCG@10 above the student of naive negatives")
    apart = compared["distinguishable"] > 0
    found, not_apart = (
        told(compared[rows], "variant", "difference", "+.3f") or "none"
        for rows in (apart, ~apart)
    )
    return fig, f"Told apart from naive mining: {found}; not: {not_apart}."
