"""Every plot of the lab: data frames in, a figure and its one-line description out.

The description states the finding with its numbers; it is printed under the figure and
is the image's alternative text. Colours are colour-blind safe and never the only cue.
"""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

from nbutils.statistics import interval

PALETTE = sns.color_palette("colorblind")
MARKERS = "os^Dv*XP"
LINES = ["-", "--", ":", "-."]

Plot = tuple[Figure, str]


def theme() -> None:
    """Set the lab's look once: white grid, small type, 100 dots per inch."""
    sns.set_theme(style="whitegrid", context="notebook", palette="colorblind")
    plt.rcParams.update({"figure.dpi": 100, "savefig.dpi": 100, "font.size": 10})


def canvas(width: float = 7.0, height: float = 3.6, columns: int = 1, **grid):
    """A themed figure with `columns` axes in a row; returns (figure, axes)."""
    theme()
    return plt.subplots(
        1, columns, figsize=(width, height), layout="constrained", **grid
    )


def _with_interval(value: float, low: float, high: float, form: str = ".0%") -> str:
    return f"{value:{form}} ({low:{form}} to {high:{form}})"


def _share(flags: pd.Series, units: pd.Series | None = None) -> str:
    """`52% (48% to 56%)`: the mean of 0/1 flags and its interval over units."""
    flags = pd.Series(np.asarray(flags, dtype=float))
    if flags.empty:
        return "none"
    if units is not None:
        flags = flags.groupby(np.asarray(units)).mean()
    return _with_interval(*interval(flags))


# -- tasks and the ladder (notebooks 01 and 02)

RUNG_ORDER = ["P", "N1", "N2", "N3", "N4"]


def task_map(tasks: pd.DataFrame) -> Plot:
    """Tasks in two dimensions: columns x, y, family, group, near_family, near_group.

    `near_family` and `near_group` are the nearest other task's, by cosine.
    """
    fig, axis = canvas(7.6, 4.6)
    sns.scatterplot(
        tasks, x="x", y="y", hue="family", style="group", s=55, ax=axis,
        palette=PALETTE[: tasks["family"].nunique()],
        markers=list(MARKERS[: tasks["group"].nunique()]),
    )  # fmt: skip
    axis.set(xlabel="first projection", ylabel="second projection")
    axis.set(xticks=[], yticks=[])
    axis.legend(bbox_to_anchor=(1.01, 1), loc="upper left", fontsize=8, frameon=False)
    family = _share(tasks["family"] == tasks["near_family"])
    group = _share(tasks["group"] == tasks["near_group"])
    return fig, (
        f"Map of {len(tasks)} brainstormed tasks: the nearest other is of the same "
        f"family for {family} and of the same group for {group} of them."
    )


def nearest_tasks(tasks: pd.DataFrame, threshold: float) -> Plot:
    """Histogram of each task's cosine to its nearest other task (column `nearest`)."""
    fig, axis = canvas(7.0, 2.8)
    axis.hist(tasks["nearest"], bins=np.arange(0, 1.01, 0.04), color=PALETTE[0])
    axis.axvline(threshold, color="black", ls="--", label=f"read by eye: {threshold:g}")
    axis.set(xlabel="cosine to the nearest other task", ylabel="tasks", xlim=(0, 1))
    axis.legend(frameon=False)
    near = (tasks["nearest"] >= threshold).sum()
    return fig, (
        f"The nearest other task is at a median cosine of "
        f"{tasks['nearest'].median():.2f} and at most at {tasks['nearest'].max():.2f}; "
        f"{near} of {len(tasks)} tasks have one at {threshold:g} or above."
    )


def ladder_levels(measured: pd.DataFrame, published: pd.DataFrame) -> Plot:
    """Mean cosine per rung with 95 % intervals, beside the published ones.

    `measured` has by, measure (a rung), value, low, high; `published` level, cosine.
    """
    fig, axis = canvas(7.0, 3.6)
    for number, (name, part) in enumerate(measured.groupby("by", sort=False)):
        _errorbars(axis, part, RUNG_ORDER, number, f"here, to the {name}")
    paper = published.set_index("level")["cosine"]
    places = [RUNG_ORDER.index(rung) for rung in paper.index]
    axis.plot(places, paper, "k-.P", label="published, the paper's model")
    axis.set(xlabel="rung", ylabel="mean cosine")
    axis.set_xticks(range(len(RUNG_ORDER)), RUNG_ORDER)
    axis.legend(frameon=False, fontsize=8)
    means = [
        f"to the {name} "
        + ", ".join(
            f"{r.measure} {_with_interval(r.value, r.low, r.high, '.2f')}"
            for r in part.itertuples()
        )
        for name, part in measured.groupby("by", sort=False)
    ]
    drop = paper.iloc[0] - paper.iloc[-1]
    return fig, (
        f"Mean cosines: {'; '.join(means)}. The paper's fall by {drop:.2f} from "
        f"{paper.index[0]} to {paper.index[-1]}, on another model's scale."
    )


def ladder_shares(summary: pd.DataFrame, title: str) -> Plot:
    """Share in order and share with P above N1, one row a part, with 95 % intervals.

    `summary` has by, measure, value, low, high with "monotone" and "P above N1".
    """
    measures = ["P above N1", "monotone"]
    parts = list(dict.fromkeys(summary["by"]))
    fig, axes = canvas(7.6, 1.2 + 0.3 * len(parts), columns=2, sharey=True)
    for number, (axis, measure) in enumerate(zip(axes, measures, strict=True)):
        rows = summary[summary["measure"] == measure].set_index("by").loc[parts]
        _dots(axis, rows, range(len(parts)), number)
        axis.set(title=measure, xlabel="share of examples", xlim=(0, 1))
        axis.set_yticks(range(len(parts)), parts)
    axes[0].invert_yaxis()
    fig.suptitle(title, fontsize=10)
    found = [
        f"{measure}: "
        + ", ".join(
            f"{r.by} {_with_interval(r.value, r.low, r.high)}"
            for r in summary[summary["measure"] == measure].itertuples()
        )
        for measure in measures
    ]
    return fig, f"{title}, share of examples. {'; '.join(found)}."


def text_only_leak(auc: pd.DataFrame) -> Plot:
    """AUC without the query: columns set, features, auc, low, high; 0.5 is no leak."""
    sets, kinds = (list(dict.fromkeys(auc[name])) for name in ("set", "features"))
    fig, axis = canvas(7.4, 1.2 + 0.42 * len(sets))
    for number, kind in enumerate(kinds):
        rows = auc[auc["features"] == kind].set_index("set").loc[sets]
        rows = rows.rename(columns={"auc": "value"})
        places = np.arange(len(sets)) + 0.2 * (number - (len(kinds) - 1) / 2)
        _dots(axis, rows, places, number, kind)
    axis.axvline(0.5, color="black", ls="--")
    axis.set(xlabel="AUC of telling the negatives apart, no query seen", xlim=(0.3, 1))
    axis.set_yticks(range(len(sets)), sets)
    axis.invert_yaxis()
    axis.legend(bbox_to_anchor=(1.01, 1), loc="upper left", fontsize=8, frameon=False)
    first = auc[auc["features"] == kinds[0]]
    found = ", ".join(
        f"{r.set} {r.auc:.2f} ({r.low:.2f} to {r.high:.2f})" for r in first.itertuples()
    )
    return fig, f"Text-only AUC by {kinds[0]}, 0.5 is no leak: {found}."


def words_by_rung(lengths: pd.DataFrame) -> Plot:
    """Mean words per rung, a line a group: columns id, group, rung, words.

    One row a text; `id` is its example's.
    """
    fig, axis = canvas(7.0, 3.2)
    texts = lengths.pivot(index=["group", "id"], columns="rung", values="words")
    table = texts[RUNG_ORDER].groupby("group", sort=False).mean()
    for number, (group, row) in enumerate(table.iterrows()):
        axis.plot(
            RUNG_ORDER, row, label=group, color=PALETTE[number],
            ls=LINES[number % len(LINES)], marker=MARKERS[number],
        )  # fmt: skip
    axis.set(xlabel="rung", ylabel="words", ylim=(0, None))
    axis.legend(bbox_to_anchor=(1.01, 1), loc="upper left", fontsize=8, frameon=False)
    fewer = (texts["N4"] - texts["P"]).groupby("group", sort=False)
    found = ", ".join(
        f"{group} {_with_interval(*interval(part), '+.1f')}" for group, part in fewer
    )
    return fig, f"Words that N4 has more than its positive, by group: {found}."


def _errorbars(axis, rows, order: list[str], number: int, label: str) -> None:
    errors = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
    places = [order.index(rung) for rung in rows["measure"]]
    axis.errorbar(
        places, rows["value"], yerr=errors, label=label, capsize=3,
        color=PALETTE[number], ls=LINES[number], marker=MARKERS[number],
    )  # fmt: skip


def _dots(axis, rows, places, number: int, label: str | None = None) -> None:
    errors = [rows["value"] - rows["low"], rows["high"] - rows["value"]]
    axis.errorbar(
        rows["value"], places, xerr=errors, label=label, capsize=3, ls="none",
        color=PALETTE[number], marker=MARKERS[number],
    )  # fmt: skip


# -- mining (notebook 03)


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
        found.append(
            f"{teacher}, {kind} {_share(part['rank'] <= 10, part['query_id'])}"
        )
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
        below = _share(planted["score"] < limit, planted["query_id"])
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
        _dots(axis, rows, places, number, selection)
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
            rate = _with_interval(row.rate, row.low, row.high)
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


# -- notebook 04 ---------------------------------------------------------------------


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


def _dots_with_intervals(axis, table: pd.DataFrame, labels) -> None:
    """One row a label, from top to bottom: its mean with the interval low to high."""
    place = np.arange(len(table))
    error = [table["mean"] - table["low"], table["high"] - table["mean"]]
    axis.errorbar(
        table["mean"], place, xerr=error, fmt="o", color=PALETTE[0], capsize=4
    )
    axis.set_yticks(place, labels)
    axis.invert_yaxis()


def pooling_scores(table: pd.DataFrame) -> Plot:
    """NDCG@10 of each pooling with its interval: columns pooling, mean, low, high."""
    fig, axis = canvas(6.5, 2.8)
    _dots_with_intervals(axis, table, table["pooling"])
    axis.set_xlabel("NDCG@10 on the development queries")
    told = "; ".join(
        f"{r['pooling']} {r['mean']:.3f} [{r['low']:.3f}, {r['high']:.3f}]"
        for _, r in table.iterrows()
    )
    return fig, (f"NDCG@10 before training by pooling, with 95 % intervals: {told}.")


# -- notebook 05 ---------------------------------------------------------------------


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


# -- notebook 06 ---------------------------------------------------------------------


def task_scores(table: pd.DataFrame) -> Plot:
    """mteb's main score by task and model: columns task, model, score."""
    fig, axis = canvas(8, 4.0)
    tasks, models = table["task"].unique(), table["model"].unique()
    for i, model in enumerate(models):
        part = table[table["model"] == model].set_index("task").reindex(tasks)
        place = np.arange(len(tasks)) + (i - (len(models) - 1) / 2) * 0.18
        axis.plot(part["score"], place, MARKERS[i], color=PALETTE[i], label=model)
    axis.set_yticks(np.arange(len(tasks)), tasks)
    axis.invert_yaxis()
    axis.set_xlabel("main score of the task")
    axis.legend(fontsize=8)
    told = []
    for task, part in table[table["metric"] == "ndcg_at_10"].groupby(
        "task", sort=False
    ):
        scores = ", ".join(
            f"{row['model']} {row['score']:.3f}" for _, row in part.iterrows()
        )
        told.append(f"{task}: {scores}")
    return fig, "mteb scores by task and model; NDCG@10 of " + "; ".join(told) + "."


def paired_gains(table: pd.DataFrame) -> Plot:
    """Gain over the untrained student with its interval: name, mean, low, high."""
    fig, axis = canvas(7, 0.4 * len(table) + 1.2)
    _dots_with_intervals(axis, table, table["name"])
    axis.axvline(0, color="black", linestyle="--", linewidth=1)
    axis.set_xlabel("after − before, with 95 % interval")
    told = "; ".join(
        f"{r['name']} {r['mean']:+.3f} [{r['low']:+.3f}, {r['high']:+.3f}]"
        for _, r in table.iterrows()
    )
    return fig, f"Gain from training: {told}."


def published_average(table: pd.DataFrame, title: str) -> Plot:
    """A paper's own averages as dots: columns model, average; MGH is highlighted."""
    fig, axis = canvas(7, 0.3 * len(table) + 1.1)
    place = np.arange(len(table))
    colours = [
        PALETTE[1] if m.startswith("MGH") else PALETTE[0] for m in table["model"]
    ]
    axis.scatter(table["average"], place, c=colours)
    for y, value in zip(place, table["average"], strict=True):
        axis.annotate(f" {value:.1f}", (value, y), fontsize=8, va="center")
    axis.set_yticks(place, table["model"])
    axis.invert_yaxis()
    axis.set(xlabel="MTEB average (56 tasks), as published", title=title)
    best = table.loc[table["average"].idxmax()]
    return fig, (
        f"{title}: published MTEB averages; highest is {best['model']} at "
        f"{best['average']:.1f}."
    )
