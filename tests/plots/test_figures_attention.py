"""The plots of page 04 draw, and say in one line what they show."""

import numpy as np
import pandas as pd
from plots.test_figures import check, closed  # noqa: F401 (a fixture for every test)

from nbutils.plots import attention


def test_sums_by_block_name_the_first_and_the_last_leader():
    running = np.array([[2.0, 1.0, 1.0], [3.0, 2.0, 7.0]])
    text = check(attention.sums_by_block(["a", "b", "c"], running, 4))
    assert "2 blocks of 4 queries: 'a' leads after the first block" in text
    assert "'c' after the last with 1.75 even shares" in text


def spread(**columns) -> pd.DataFrame:
    table = pd.DataFrame(columns)
    return table.assign(low=table["mean"] - 0.1, high=table["mean"] + 0.1)


def test_layers_name_their_heaviest_class():
    table = spread(
        layer=[1, 1, 2, 2], **{"class": ["word", "punctuation"] * 2},
        mean=[1.2, 0.9, 0.8, 1.5],
    )  # fmt: skip
    text = check(attention.classes_by_layer(table))
    assert "in layer 1 word (1.20) and in layer 2 punctuation (1.50)" in text


def test_directions_tell_both_ends():
    table = spread(
        direction=["causal", "causal", "both ways", "both ways"],
        part=[1, 2, 1, 2], mean=[1.6, 0.4, 1.1, 0.9],
    )  # fmt: skip
    text = check(attention.by_direction(table))
    assert "causal 1.60 to 0.40; both ways 1.10 to 0.90" in text


def test_poolings_tell_before_and_after():
    table = pd.DataFrame(
        {"pooling": ["mean", "ata"], "before": [0.4, 0.3], "after": [0.5, 0.55]}
    )
    plot = attention.pooling_before_after(table, "held-out tasks")
    check(plot, "held-out tasks: mean 0.400 to 0.500; ata 0.300 to 0.550")
