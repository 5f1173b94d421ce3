"""The plots of pages 01 and 02."""

from plots.support import check, frame, published, texts

from nbutils.plots import synthesis
from nbutils.plots.synthesis import RUNGS


def test_tasks_have_shares_with_intervals_and_near_neighbours():
    nearest = [0.5, 0.5, 0.6, 0.6, 0.7, 0.7, 0.9, 0.95]
    rows = (
        (n, n, "home" if n % 2 else "health", "sts" if n < 4 else "long-long", "health",
         "long-long" if n in (4, 5) else "sts", cosine)
        for n, cosine in enumerate(nearest)
    )  # fmt: skip
    tasks = frame("x y family group near_family near_group nearest", *rows)
    shares = ("same family for 50% (", "same group for 75% (")
    check(synthesis.task_map(tasks), "8 brainstormed tasks", *shares)
    near = "2 of 8 tasks have one at 0.85 or above"
    check(synthesis.nearest_tasks(tasks, 0.85), "0.65", "at most at 0.95", near)


def test_ladder_levels_gives_each_mean_with_its_interval():
    query = zip(["query"] * 5, RUNGS, [0.37, 0.34, 0.31, 0.26, 0.18], strict=True)
    positive = zip(["positive"] * 4, RUNGS[1:], [0.8, 0.7, 0.6, 0.5], strict=True)
    rows = frame("by measure value", *query, *positive, spread="value")
    figure = check(
        synthesis.ladder_levels(rows, published("negative_matters_level_cosine")),
        "to the query P 0.37 (0.32 to 0.42), N1",
        "N4 0.18 (0.13 to 0.23); to the positive N1 0.80 (0.75 to 0.85)",
        "by 0.09 from N1 to N4",
    )
    assert texts(figure.axes[0].get_xticklabels()) == list(RUNGS)
    assert list(figure.axes[0].lines[0].get_xdata()) == [1, 2, 3, 4]  # the paper's


def test_ladder_shares_names_every_part_and_no_winner():
    rows = [("sts", "P above N1", 0.5), ("long-long", "P above N1", 0.7)]
    rows += [("sts", "monotone", 0.1), ("long-long", "monotone", 0.2)]
    table = frame("by measure value", *rows, ("sts", "inversions", 3), spread="value")
    above = "P above N1: sts 50% (45% to 55%), long-long 70% (65% to 75%)"
    order = "monotone: sts 10% (5% to 15%), long-long 20% (15% to 25%)"
    plot = synthesis.ladder_shares(table, "By group")
    check(plot, f"By group, share of examples. {above}; {order}.")


def test_leaks_and_lengths_have_their_intervals():
    rows = [("N1", "words", 0.6), ("N4", "words", 0.8), ("N1", "length", 0.3)]
    told = "by words, 0.5 is no leak: N1 0.60 (0.55 to 0.65), N4 0.80 (0.75 to 0.85)"
    plot = synthesis.text_only_leak(frame("set features auc", *rows, spread="auc"))
    assert check(plot, told).axes[0].get_xlim() == (0, 1)  # a leak the other way, too
    rows = (
        (f"{group}{n}", group, rung, base + n - fewer)  # an example beside itself
        for group, base in (("sts", 10), ("long-long", 100))
        for n in range(6)
        for fewer, rung in enumerate(RUNGS)
    )
    told = "long-long -4.0 (-4.0 to -4.0), sts -4.0"
    check(synthesis.words_by_rung(frame("id group rung words", *rows)), told)
