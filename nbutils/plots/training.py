"""Plots of page 05: the run, and our studies beside the papers' numbers."""

from __future__ import annotations

import pandas as pd
import seaborn as sns

from nbutils.plots import style
from nbutils.plots.style import BESIDE, Plot, canvas, curves, forest, readable, told


def training_curves(steps: pd.DataFrame) -> Plot:
    """Loss and gradient norm by step: columns step, level, loss, gradient_norm."""
    fig, axes = canvas(columns=2)
    labels = {"loss": "InfoNCE loss", "gradient_norm": "norm of the gradient"}
    for axis, (column, label) in zip(axes, labels.items(), strict=True):
        curves(axis, steps, "step", column, "level")
        axis.set(xlabel="step", ylabel=label)
    axes[0].get_legend().remove()
    axes[1].get_legend().set_title("level")
    means = steps.groupby("level", sort=False, as_index=False)["loss"].mean()
    found = told(means, "level", "loss", ".2f")
    return fig, f"Training loss over {len(steps)} steps; mean loss by level: {found}."


def learning_curve(evaluations: pd.DataFrame) -> Plot:
    """Development scores before training and after each level, one panel a score.

    Columns step, level (`start` before training), ndcg, beats_n1.
    """
    fig, axes = canvas(columns=2)
    labels = {"ndcg": "NDCG@10", "beats_n1": "share with the positive above N1"}
    ticks = evaluations["step"].astype(str) + "\n" + evaluations["level"]
    found = []
    for axis, (column, label) in zip(axes, labels.items(), strict=True):
        curves(axis, evaluations, "step", column)
        axis.set_xticks(evaluations["step"], ticks)
        axis.set(xlabel="step, and the level just finished", ylabel=label)
        found.append(f"{label}: {told(evaluations, 'level', column)}")
    return fig, f"Development scores after each level. {'; '.join(found)}."


def development(curve: pd.DataFrame) -> Plot:
    """A study's development scores by step, mean and range over seeds.

    Columns variant, seed, step, ndcg.
    """
    fig, axis = canvas()
    sns.lineplot(
        curve, x="step", y="ndcg", hue="variant", style="variant", markers=True,
        errorbar=("pi", 100), err_kws={"alpha": 0.1}, ax=axis,
    )  # fmt: skip
    seeds = _seeds(curve.groupby("variant")["seed"].nunique())
    axis.set(ylabel="NDCG@10, development", title=f"mean and range over {seeds}")
    sns.move_legend(axis, **BESIDE, title=None)
    last = curve[curve["step"] == curve["step"].max()]
    means = last.groupby("variant")["ndcg"].mean().sort_values(ascending=False)
    found = told(means.reset_index(), "variant", "ndcg")
    return fig, f"Development NDCG@10 after the last step, mean of {seeds}: {found}."


def gradient_norms(steps: pd.DataFrame, published: pd.DataFrame) -> Plot:
    """Variance of the gradient norm over a run's steps by mixing, with SyNeg's V.

    `steps`: variant, seed, gradient_norm; `published`: mixing, gradient_variance. Marks
    are means over seeds, bars their range.
    """
    fig, (left, right) = canvas(height=2, columns=2)
    runs = steps.groupby(["variant", "seed"])["gradient_norm"].var()
    ours = runs.groupby("variant").agg(mean="mean", low="min", high="max").reset_index()
    forest(left, ours, "variant")
    seeds = _seeds(steps.groupby("variant")["seed"].nunique())
    left.set(xlabel="variance of the gradient's norm", title=f"here, {seeds}")
    forest(right, published, "mixing", "gradient_variance")
    right.set(xlabel="V", title="SyNeg's table")
    for axis in (left, right):
        axis.set_xlim(0, 1.05 * axis.dataLim.xmax)
    return fig, (
        "Variance of the gradient norm over a run's steps, mean and range over seeds: "
        f"{told(ours, 'variant', form='.3g')}. SyNeg prints V: "
        f"{told(published, 'mixing', 'gradient_variance', 'g')}."
    )


PAPERS_NAMES = {
    "random order": "random", **{f"fixed N{k}": f"fixed-{k}" for k in (1, 2, 3, 4)},
    "pure synthetic": "synthetic", "none": "not trained",
}  # fmt: skip
"""What the papers' variants are called here; SyNeg's `none` is BGE-large as it was."""


def study(
    setting: str, table: pd.DataFrame, published: pd.DataFrame, baseline: str,
    row: str, score: str, series: str | None = None,
) -> Plot:  # fmt: skip
    """Values of a setting: differences from a baseline, beside the paper's numbers.

    `table`: `evaluation.compare`'s against `baseline`. `published`: columns `row` (a
    variant or its value), `score`, and where there are any `series` (a data set) and
    reading_error. Our variants stand in the paper's order, first those that it lacks.
    """
    theirs = published.assign(name=published[row].astype(str).replace(PAPERS_NAMES))
    means = theirs.groupby("name", sort=False, as_index=False)[score].mean()
    if "reading_error" in theirs:
        for bound, sign in (("low", -1), ("high", 1)):
            theirs[bound] = theirs[score] + sign * theirs["reading_error"]
    place = {name: place for place, name in enumerate(means["name"])}
    ours = table[table["variant"] != "untrained"].sort_values(
        "variant", key=lambda names: names.map(place).fillna(-1), kind="stable"
    )
    fig, (left, right) = canvas(8, 1.4 + 0.28 * len(means), columns=2)
    left.axvline(0, **style.REFERENCE)
    forest(left, ours, "variant", "difference")
    left.plot(0, list(ours["variant"]).index(baseline), "ko", mfc="white")
    seeds = _seeds(ours["seeds"])
    left.set(xlabel=f"NDCG@10, difference from {baseline}", ylabel=setting)
    left.set_title(f"held-out tasks, {seeds}, 95 % intervals")
    forest(right, theirs, "name", score, series, gap=0)
    right.set(xlabel=readable(score), title="in the paper")
    apart = ours[ours["distinguishable"].eq(True)][["variant", "difference"]]
    verdict = f"no other is distinguishable from {baseline}"
    if len(apart):
        differ = told(apart, "variant", "difference", "+.3f", ": ")
        verdict = f"distinguishable from {baseline} by their difference: {differ}"
    return fig, (
        f"NDCG@10 on held-out tasks by {setting}, {seeds}: "
        f"{told(ours[['variant', 'mean']], 'variant', sep=': ')}; {verdict}. The "
        f"paper's {readable(score)}: {told(means, 'name', score, '.4g', ': ')}."
    )


def _seeds(counts: pd.Series) -> str:
    """`3 seeds` or `1 seed`, or the range where variants have different numbers."""
    low, high = int(counts.min()), int(counts.max())
    if low < high:
        return f"{low} to {high} seeds"
    return "1 seed" if low == 1 else f"{low} seeds"
