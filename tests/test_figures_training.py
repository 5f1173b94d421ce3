"""The plots of the training room say what the tables hold."""

import numpy as np
import pandas as pd
import pytest

from nbutils import figures_training
from nbutils.settings import DATA


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
    figure, told = figures_training.schedules(curve, table)
    assert "curriculum 0.620, reverse 0.520" in told and "2 seeds" in told
    assert "best is curriculum with 71.7" in told
    assert len(figure.axes[0].lines) == 2


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
    _, told = figures_training.gradient_norms(steps, table)
    assert "direct 2 (2 to 2)" in told  # not the variance over both runs' steps
    assert "hybrid 0.5" in told and "direct 188.5, hybrid 155.23" in told


def test_a_sweep_tells_its_best_and_what_can_be_told_apart():
    table = pd.DataFrame(
        {
            "variant": ["2.0", "0.2", "untrained", "0.7"],
            "mean": [0.5, 0.6, 0.1, 0.7],
            "difference": [-0.2, -0.1, -0.6, np.nan],
            "low": [-0.3, -0.2, -0.7, np.nan],
            "high": [-0.1, 0.1, -0.5, np.nan],
            "distinguishable": [True, False, True, np.nan],
        }
    )
    figure, told = figures_training.sweep(
        table, published("syneg_ratio"), ("ratio", "score"), "ratio R"
    )
    assert "best mean is at 0.7 (0.700)" in told
    assert "distinguishable from 0.7: 2." in told and "best is at 0.7" in told
    assert list(figure.axes[0].lines[0].get_xdata()) == pytest.approx([0.2, 0.7, 2.0])
