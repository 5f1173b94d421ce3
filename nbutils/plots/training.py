"""Plots of the training room: schedules, mixings and sweeps beside the papers'."""

from __future__ import annotations

import pandas as pd

from nbutils.plots.style import LINES, MARKERS, PALETTE, Plot, canvas


def training_curves(steps: pd.DataFrame) -> Plot:
    """Loss and gradient norm by step, one marker a level."""
    fig, (left, right) = canvas(8, 3.2, columns=2)
    for i, (level, part) in enumerate(steps.groupby("level", sort=False)):
        style = {"marker": MARKERS[i], "color": PALETTE[i], "markersize": 3.5}
        left.plot(part["step"], part["loss"], label=level, **style)
        right.plot(part["step"], part["gradient_norm"], label=level, **style)
    left.set(xlabel="step", ylabel="InfoNCE loss")
    right.set(xlabel="step", ylabel="norm of the gradient")
    left.legend(title="level", fontsize=8)
    means = steps.groupby("level", sort=False)["loss"].mean()
    told = ", ".join(f"{level} {value:.2f}" for level, value in means.items())
    return fig, f"Training loss over {len(steps)} steps; mean loss by level: {told}."


def learning_curve(evaluations: pd.DataFrame) -> Plot:
    """Development scores before training and after each level."""
    fig, axis = canvas(6.5, 3.2)
    names = {"ndcg": "NDCG@10", "beats_n1": "positive above N1"}
    for i, (column, label) in enumerate(names.items()):
        axis.plot(
            evaluations["step"],
            evaluations[column],
            label=label,
            marker=MARKERS[i],
            linestyle=LINES[i],
            color=PALETTE[i],
        )
    labels = [
        f"{s}\n{v}"
        for s, v in zip(evaluations["step"], evaluations["level"], strict=True)
    ]
    axis.set_xticks(evaluations["step"], labels)
    axis.set(xlabel="step, and the level just finished", ylabel="share")
    axis.legend(fontsize=8)
    first, last = evaluations.iloc[0], evaluations.iloc[-1]
    return fig, (
        f"Development scores by level: NDCG@10 {first['ndcg']:.3f} before, "
        f"{last['ndcg']:.3f} after; positive above N1 {first['beats_n1']:.3f} before, "
        f"{last['beats_n1']:.3f} after."
    )


def _seeds(table: pd.DataFrame) -> str:
    """`3 seeds` or `1 seed`, or the range where variants have different numbers."""
    counts = table.groupby("variant")["seed"].nunique()
    low, high = int(counts.min()), int(counts.max())
    if low < high:
        return f"{low} to {high} seeds"
    return "1 seed" if low == 1 else f"{low} seeds"


PAPERS_NAMES = {
    "curriculum": "curriculum", "reverse": "reverse", "random order": "random",
    **{f"fixed N{k}": f"fixed-{k}" for k in (1, 2, 3, 4)},
}  # fmt: skip
"""What Negative Matters' strategies are called here."""


def schedules(
    curve: pd.DataFrame, table: pd.DataFrame, published: pd.DataFrame
) -> Plot:
    """Learning curves of the schedules, and both orderings: ours and the paper's.

    `curve`: variant, seed, step, ndcg (a band is the range over seeds); `table`:
    `sweeps.compare`'s against `curriculum`; `published`: strategy, mteb_subset_score,
    reading_error. Both orderings stand in the paper's order.
    """
    fig, (left, middle, right) = canvas(11, 3.6, columns=3)
    groups = curve.groupby(["variant", "step"])["ndcg"]
    means, low, high = (getattr(groups, f)().unstack(0) for f in ("mean", "min", "max"))
    for i, name in enumerate(means):
        style = {"marker": MARKERS[i % 8], "linestyle": LINES[i % 4], "markersize": 4}
        color = PALETTE[i % len(PALETTE)]
        left.plot(means.index, means[name], label=name, color=color, **style)
        left.fill_between(means.index, low[name], high[name], color=color, alpha=0.1)
    left.set(xlabel="step", ylabel="NDCG@10, development", title=_seeds(curve))
    left.legend(fontsize=7, ncols=2)
    order = published.sort_values("mteb_subset_score")
    names = [PAPERS_NAMES[name] for name in order["strategy"]]
    shown = [name for name in names if name in set(table["variant"])]
    ours = table.set_index("variant").loc[shown]
    _differences(middle, ours, "curriculum")
    right.errorbar(
        order["mteb_subset_score"], names, xerr=order["reading_error"],
        fmt="s", color=PALETTE[1],
    )  # fmt: skip
    right.set(xlabel="MTEB subset at step 1,600", title="the paper's figure, read off")
    last = means.iloc[-1].sort_values(ascending=False)
    told = ", ".join(f"{name} {value:.3f}" for name, value in last.items())
    best = order.iloc[-1]
    return fig, (
        f"Development NDCG@10 after the last step, mean of {_seeds(curve)}: {told}. "
        f"On held-out tasks, {_told_apart(ours, 'curriculum')}. In the paper the best "
        f"is {best['strategy']} with {best['mteb_subset_score']:.1f}."
    )


def _differences(axis, ours: pd.DataFrame, baseline: str) -> None:
    """Differences from a baseline with their intervals, one row a variant (index)."""
    rest = ours[ours.index != baseline]
    bars = [rest["difference"] - rest["low"], rest["high"] - rest["difference"]]
    axis.plot([0] * len(ours), ours.index, alpha=0)  # every name keeps its place
    axis.plot(0, baseline, "o", markerfacecolor="white", color="black", zorder=3)
    axis.errorbar(rest["difference"], rest.index, xerr=bars, fmt="o", color=PALETTE[0])
    axis.axvline(0, color="black", linewidth=1, linestyle=":")
    axis.set(
        xlabel=f"NDCG@10 less that of {baseline}, held-out tasks",
        title=f"ours, 95 % intervals, {_count(ours)}",
    )


def _count(table: pd.DataFrame) -> str:
    low, high = int(table["seeds"].min()), int(table["seeds"].max())
    return f"{low} to {high} seeds" if low < high else f"seeds: {low}"


def _told_apart(ours: pd.DataFrame, baseline: str) -> str:
    """Which variants (index) the intervals tell apart from the baseline."""
    apart = ours[ours["distinguishable"].eq(True)]
    if apart.empty:
        return f"no other is distinguishable from {baseline}"
    told = ", ".join(f"{n} ({v:+.3f})" for n, v in apart["difference"].items())
    return f"distinguishable from {baseline}: {told}"


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
    ours = _numbered(table)
    _line(left, ours)
    left.set(xlabel=label, ylabel="NDCG@10, held-out tasks")
    left.set_title(f"ours, 95 % intervals, {_count(ours)}")
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


MIXINGS = ("retrieved", "synthetic", "direct", "hybrid")
"""In the order of SyNeg's table, whose `none` has retrieved negatives only."""


def mixings(table: pd.DataFrame, published: pd.DataFrame, baseline: str) -> Plot:
    """Ways to mix synthetic and retrieved negatives beside SyNeg's table.

    `table`: `sweeps.compare`'s against `baseline`; `published`: mixing, dataset,
    ndcg_at_10_percent.
    """
    fig, (left, right) = canvas(9, 3.2, columns=2)
    ours = table.set_index("variant")
    ours = ours.loc[[name for name in MIXINGS if name in ours.index][::-1]]
    _differences(left, ours, baseline)
    theirs = published.pivot(index="mixing", columns="dataset")["ndcg_at_10_percent"]
    theirs = theirs.loc[list(dict.fromkeys(published["mixing"]))[::-1]]
    for i, name in enumerate(theirs):
        style = {"marker": MARKERS[i], "color": PALETTE[i + 1], "linestyle": ""}
        right.plot(theirs[name], theirs.index, label=name, **style)
    right.set(xlabel="NDCG@10 in %", title="SyNeg's table")
    right.legend(frameon=False, fontsize=8)
    means = ", ".join(f"{n} {v:.3f}" for n, v in ours["mean"][::-1].items())
    best = theirs.mean(axis=1)
    return fig, (
        f"NDCG@10 on held-out tasks by mixing, {_count(ours)}: {means}; "
        f"{_told_apart(ours, baseline)}. SyNeg's best mean is {best.idxmax()}'s with "
        f"{best.max():.1f} %."
    )


def temperatures(table: pd.DataFrame, published: pd.DataFrame, baseline: str) -> Plot:
    """Our score by temperature, with the temperatures that SyNeg names marked.

    `table`: `sweeps.compare`'s against `baseline`, a number in `variant`; `published`:
    model, temperature. A bar is the interval of the difference from the baseline.
    """
    fig, axis = canvas(7, 3.4)
    ours = _numbered(table)
    _line(axis, ours)
    axis.set(xscale="log", xlabel="temperature", ylabel="NDCG@10, held-out tasks")
    axis.set_xticks(ours["value"], [f"{v:g}" for v in ours["value"]], minor=False)
    axis.minorticks_off()
    for i, mark in enumerate(published.itertuples(), 1):
        axis.axvline(
            mark.temperature, color=PALETTE[i], linestyle=LINES[i % 4], zorder=1,
            label=f"SyNeg, {mark.model}: {mark.temperature:g}",
        )  # fmt: skip
    axis.set_title(f"95 % intervals, {_count(ours)}")
    fig.legend(fontsize=8, loc="outside lower center", ncols=len(published))
    means = ", ".join(f"{r.value:g} {r.mean:.3f}" for r in ours.itertuples())
    named = ours.assign(variant=[f"{v:g}" for v in ours["value"]]).set_index("variant")
    theirs = ", ".join(f"{m.temperature:g} ({m.model})" for m in published.itertuples())
    return fig, (
        f"NDCG@10 on held-out tasks by temperature, {_count(ours)}: {means}; "
        f"{_told_apart(named, baseline)}. SyNeg names {theirs}; no scores of others."
    )


def _numbered(table: pd.DataFrame) -> pd.DataFrame:
    """The trained variants with their numbers in `value`, sorted."""
    ours = table[table["variant"] != "untrained"]
    return ours.assign(value=ours["variant"].astype(float)).sort_values("value")


def _line(axis, ours: pd.DataFrame) -> None:
    """Means by value; a bar is the interval of the difference from the baseline."""
    bars = [
        (ours["difference"] - ours["low"]).fillna(0),
        (ours["high"] - ours["difference"]).fillna(0),
    ]
    axis.errorbar(ours["value"], ours["mean"], yerr=bars, marker="o", color=PALETTE[0])
