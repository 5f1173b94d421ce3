"""The pooling suite measures what its rows say, on shapes small enough for a test."""

import pytest
import torch

from benchmarks import pooling
from nbutils.encoder.models import tiny_folder


@pytest.fixture
def changes(tmp_path):
    return {"student": str(tiny_folder("tiny-mistral", tmp_path)), **pooling.WHOLE}


def test_ata_and_matrices_give_the_same_vectors(changes):
    """Otherwise the rows would compare different things."""
    batch = pooling.features_of(2, 24)
    with torch.no_grad():
        mean, ata, matrices = (
            pooling.forward_of(way, changes)(batch)
            for way in ("mean", "ata", "matrices")
        )
    assert torch.allclose(ata, matrices, atol=1e-6)
    assert (ata - mean).abs().max() > 1e-5


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_rows_have_both_sides_and_their_ratio(changes, quantization):
    chosen = {**changes, "quantization": quantization}
    rows = pooling.timed_rows("ata_vs_mean", "ata", "mean", chosen, (512,), 1)
    assert rows[0]["name"] == "ata_vs_mean 512"
    for row in (*rows, pooling.throughput_row(chosen, "rate", count=8)):
        assert row["value"] > 0 and row["ratio"] == row["value"] / row["peer"]


def test_matrices_take_more_memory(changes):
    """On a length at which matrices dwarf what else a pass needs."""
    ways = ("mean", "mean", "matrices")  # the first loads libraries and kernels
    _, mean, matrices = (pooling.memory_of(way, changes, 1536) for way in ways)
    assert matrices - mean > 2 * 4 * 1536**2 * 4 / 1e6 * 0.8
