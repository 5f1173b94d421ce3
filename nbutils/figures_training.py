"""Plots of the training room: schedules, mixings and sweeps beside the papers'."""

from __future__ import annotations

import pandas as pd

from nbutils.figures import LINES, MARKERS, PALETTE, Plot, canvas


def _seeds(table: pd.DataFrame) -> str:
    """`3 seeds` or `1 seed`, or the range where variants have different numbers."""
    counts = table.groupby("variant")["seed"].nunique()
    low, high = int(counts.min()), int(counts.max())
    if low < high:
        return f"{low} to {high} seeds"
    return "1 seed" if low == 1 else f"{low} seeds"


def schedules(curve: pd.DataFrame, published: pd.DataFrame) -> Plot:
    """Learning curves of the schedules beside the paper's scores at its last step.

    `curve`: variant, seed, step, ndcg; `published`: strategy, mteb_subset_score.
    """
    fig, (left, right) = canvas(9, 3.6, columns=2)
    means = curve.groupby(["variant", "step"])["ndcg"].mean().unstack(0)
    for i, name in enumerate(means):
        style = {"marker": MARKERS[i % 8], "linestyle": LINES[i % 4]}
        color = PALETTE[i % len(PALETTE)]
        left.plot(means.index, means[name], label=name, color=color, **style)
    left.set(xlabel="step", ylabel="NDCG@10, development", title=_seeds(curve))
    left.legend(fontsize=7, ncols=2)
    order = published.sort_values("mteb_subset_score")
    right.errorbar(
        order["mteb_subset_score"], order["strategy"], xerr=order["reading_error"],
        fmt="o", color=PALETTE[0],
    )  # fmt: skip
    right.set(xlabel="MTEB subset at step 1,600", title="the paper's figure, read off")
    last = means.iloc[-1].sort_values(ascending=False)
    told = ", ".join(f"{name} {value:.3f}" for name, value in last.items())
    best = order.iloc[-1]
    return fig, (
        f"Development NDCG@10 after the last step, mean of {_seeds(curve)}: {told}. "
        f"In the paper the best is {best['strategy']} with "
        f"{best['mteb_subset_score']:.1f}."
    )


def gradient_norms(steps: pd.DataFrame, published: pd.DataFrame) -> Plot:
    """Distribution of the steps' gradient norms by mixing, with SyNeg's V beside.

    `steps`: variant, seed, gradient_norm; `published`: mixing, gradient_variance. The
    variance is over the steps of a run, its mean over seeds is told.
    """
    fig, (left, right) = canvas(8, 3.2, columns=2)
    names = list(dict.fromkeys(steps["variant"]))
    left.boxplot(
        [steps.loc[steps["variant"] == name, "gradient_norm"] for name in names],
        tick_labels=names,
    )
    left.set(ylabel="norm of a step's gradient", title=_seeds(steps))
    right.bar(published["mixing"], published["gradient_variance"], color=PALETTE[:2])
    right.set(ylabel="V", title="SyNeg's table")
    runs = steps.groupby(["variant", "seed"])["gradient_norm"].var()
    ours = runs.groupby("variant").agg(["mean", "min", "max"]).loc[names]
    told = ", ".join(
        f"{name} {row['mean']:.3g} ({row['min']:.3g} to {row['max']:.3g})"
        for name, row in ours.iterrows()
    )
    theirs = ", ".join(
        f"{row.mixing} {row.gradient_variance:g}" for row in published.itertuples()
    )
    return fig, (
        f"Variance of the gradient norm over a run's steps, mean and range over seeds: "
        f"{told}. SyNeg prints V: {theirs}."
    )


def sweep(
    table: pd.DataFrame, published: pd.DataFrame, columns: tuple[str, str], label: str
) -> Plot:
    """Our score by a setting's value, beside the paper's.

    `table` is `sweeps.compare`'s, with a number in `variant`; `columns` name value and
    score in `published`. A bar is the interval of the difference from the baseline.
    """
    fig, (left, right) = canvas(8, 3.2, columns=2)
    ours = table[table["variant"] != "untrained"]
    ours = ours.assign(value=ours["variant"].astype(float)).sort_values("value")
    bars = [
        (ours["difference"] - ours["low"]).fillna(0),
        (ours["high"] - ours["difference"]).fillna(0),
    ]
    left.errorbar(ours["value"], ours["mean"], yerr=bars, marker="o", color=PALETTE[0])
    left.set(xlabel=label, ylabel="NDCG@10, held-out tasks", title="ours")
    x, y = columns
    right.plot(published[x], published[y], marker="s", linestyle="--", color=PALETTE[1])
    right.set(xlabel=label, ylabel=y, title="SyNeg's figure, read off")
    differ = ours[ours["distinguishable"].eq(True)]
    found = ", ".join(f"{v:g}" for v in differ["value"]) or "none"
    best = ours.loc[ours["mean"].idxmax()]
    theirs = published.loc[published[y].idxmax(), x]
    base = ours.loc[ours["difference"].isna(), "value"].iloc[0]
    return fig, (
        f"{label}: our best mean is at {best['value']:g} ({best['mean']:.3f}); values "
        f"distinguishable from {base:g}: {found}. SyNeg's best is at {theirs:g}."
    )
