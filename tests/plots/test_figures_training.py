"""The plots of the training room say what the tables hold."""

import numpy as np
import pandas as pd
import pytest

from nbutils.core.settings import DATA
from nbutils.plots import training


def published(name: str) -> pd.DataFrame:
    return pd.read_csv(DATA / "published" / f"{name}.csv")


def test_schedules_name_every_order_and_the_papers_best():
    curve = pd.DataFrame(
        [
            {"variant": v, "seed": s, "step": step, "ndcg": base + step / 100}
            for v, base in (("curriculum", 0.5), ("reverse", 0.4))
            for s in (0, 1)
            for step in (0, 6, 12)
        ]
    )
    table = published("negative_matters_strategy")
    figure, told = training.schedules(curve, compared("curriculum", "reverse"), table)
    assert "curriculum 0.620, reverse 0.520" in told and "2 seeds" in told
    assert "distinguishable from curriculum: reverse (-0.200)" in told
    assert "best is curriculum with 71.7" in told
    assert len(figure.axes[0].lines) == 2
    ours, theirs = (
        [label.get_text() for label in axis.get_yticklabels()]
        for axis in figure.axes[1:]
    )
    assert ours == ["reverse", "curriculum"] == [n for n in theirs if n in ours]
    _, told = training.schedules(
        curve, compared("curriculum", "reverse", apart=False), table
    )
    assert "no other is distinguishable from curriculum" in told


def compared(baseline: str, other: str, apart: bool = True) -> pd.DataFrame:
    """What `sweeps.compare` returns, for two variants."""
    nothing = dict.fromkeys(("difference", "low", "high", "distinguishable"), np.nan)
    return pd.DataFrame(
        [
            {"variant": baseline, "seeds": 3, "mean": 0.7, **nothing},
            {"variant": other, "seeds": 2, "mean": 0.5, "difference": -0.2,
             "low": -0.3, "high": -0.1 if apart else 0.1, "distinguishable": apart},
        ]
    )  # fmt: skip


def test_mixings_stand_beside_syneg_and_tell_only_what_can_be_told_apart():
    theirs = published("syneg_mixing")
    figure, told = training.mixings(
        compared("retrieved", "hybrid"), theirs, "retrieved"
    )
    assert "retrieved 0.700, hybrid 0.500" in told and "2 to 3 seeds" in told
    assert "distinguishable from retrieved: hybrid (-0.200)" in told
    assert "best mean is hybrid's with 73.3 %" in told
    assert {line.get_label() for line in figure.axes[1].lines} == set(theirs["dataset"])
    _, told = training.mixings(
        compared("retrieved", "hybrid", apart=False), theirs, "retrieved"
    )
    assert "no other is distinguishable from retrieved" in told


def test_temperatures_mark_those_that_syneg_names():
    table, theirs = compared("0.02", "0.1"), published("syneg_temperature")
    figure, told = training.temperatures(table, theirs, "0.02")
    assert "0.02 0.700, 0.1 0.500" in told
    assert "distinguishable from 0.02: 0.1 (-0.200)" in told
    assert "0.017 (BGE, best)" in told
    marks = [line.get_xdata()[0] for line in figure.axes[0].lines[-3:]]
    assert marks == list(theirs["temperature"])


def test_gradient_norms_tell_the_variance_within_runs():
    rows = [("direct", 0, [1, 3]), ("direct", 1, [11, 13]), ("hybrid", 0, [2, 3])]
    steps = pd.DataFrame(
        [
            {"variant": v, "seed": s, "gradient_norm": float(n)}
            for v, s, norms in rows
            for n in norms
        ]
    )
    table = published("syneg_gradient_variance")
    _, told = training.gradient_norms(steps, table)
    assert "direct 2 (2 to 2)" in told  # not the variance over both runs' steps
    assert "hybrid 0.5" in told and "direct 188.5, hybrid 155.23" in told


def test_a_sweep_tells_its_best_and_what_can_be_told_apart():
    table = pd.DataFrame(
        {
            "variant": ["2.0", "0.2", "untrained", "0.7"],
            "seeds": [3, 3, 1, 3],
            "mean": [0.5, 0.6, 0.1, 0.7],
            "difference": [-0.2, -0.1, -0.6, np.nan],
            "low": [-0.3, -0.2, -0.7, np.nan],
            "high": [-0.1, 0.1, -0.5, np.nan],
            "distinguishable": [True, False, True, np.nan],
        }
    )
    figure, told = training.sweep(
        table, published("syneg_ratio"), ("ratio", "score"), "ratio R"
    )
    assert "best mean is at 0.7 (0.700)" in told
    assert "distinguishable from 0.7: 2." in told and "best is at 0.7" in told
    assert list(figure.axes[0].lines[0].get_xdata()) == pytest.approx([0.2, 0.7, 2.0])
