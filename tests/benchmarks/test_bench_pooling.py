"""The pooling suite measures what its rows say, on shapes small enough for a test."""

import pytest
import torch
from transformers import MistralConfig

from benchmarks import harness, pooling
from nbutils.core.errors import LabError
from nbutils.encoder.attention import TAPPED

SMALL = {
    "vocab_size": 50, "hidden_size": 64, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
    "intermediate_size": 64, "sliding_window": None,
}  # fmt: skip


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setitem(pooling.SHAPES, "small", lambda: MistralConfig(**SMALL))


def test_ata_and_matrices_give_the_same_vectors():
    """Otherwise the rows would compare different things."""
    ours, eager = (
        pooling.random_model(pooling.SHAPES["small"](), way)
        for way in (TAPPED, "eager")
    )
    batch = pooling.batch_of(ours, 2, 24)
    with torch.no_grad():
        found = pooling.with_ata(ours, *batch)
        wanted = pooling.with_matrices(eager, *batch)
        mean = pooling.with_mean(ours, *batch)
    assert torch.allclose(found, wanted, atol=1e-4)
    assert (found - mean).abs().max() > 1e-4


def test_rows_have_both_sides_and_their_ratio():
    rows = pooling.forward_rows("small", lengths=(8, 16), tokens=32, repeats=1)
    rows.append(pooling.eager_row("small", length=16, tokens=32, repeats=1))
    assert [row["name"] for row in rows] == [
        "ata_vs_mean small 8", "ata_vs_mean small 16", "eager_vs_ata small 16",
    ]  # fmt: skip
    for row in rows:
        assert row["value"] > 0 and row["ratio"] == row["value"] / row["peer"]


def test_the_4_bit_model_of_the_gpu_rows_runs_here_too():
    model = pooling.nf4_model(MistralConfig(**SMALL), "cpu")
    kinds = [type(m).__name__ for m in model.modules()]
    assert kinds.count("Linear4bit") == 14 and "Linear" not in kinds
    batch = pooling.batch_of(model, 2, 8)
    with torch.no_grad():
        assert torch.isfinite(pooling.with_ata(model, *batch)).all()


def test_matrices_take_more_memory_and_a_failed_measurement_says_why():
    """On a length at which matrices dwarf what a process needs anyway."""
    peaks = {
        way: pooling.peak_memory("minilm", way, 1024) for way in ("mean", "matrices")
    }
    assert peaks["matrices"] - peaks["mean"] > 6 * 12 * 1024**2 * 4 / 1e6 * 0.8
    with pytest.raises(LabError, match="could not be measured: KeyError"):
        pooling.peak_memory("nothing", "mean", 8)


def test_without_a_gpu_the_gpu_rows_say_so(capsys):
    if torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    assert pooling.gpu_rows() == []
    assert "no GPU here" in capsys.readouterr().out


def test_the_suite_is_known():
    assert "pooling" in harness.SUITES
