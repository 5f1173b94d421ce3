"""The suite for one GPU, run on the CPU with a small shape: the same functions."""

import pandas as pd
import pytest
import torch
from transformers import MistralConfig

from benchmarks import gpu, gpu_peer, harness, shape
from nbutils.core.errors import LabError
from nbutils.core.settings import resolve
from nbutils.training import footprint, gradcache

SETTINGS = resolve("paper", {"device": "cpu", "optimizer": "adamw", "mini_batch": 8})


def small() -> MistralConfig:
    return MistralConfig(
        vocab_size=1100, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, head_dim=16, sliding_window=None,
    )  # fmt: skip


def values(rows) -> dict[str, float]:
    found = {row["name"]: row["value"] for row in rows}
    assert all(value > 0 for value in found.values()), found
    return found


def test_no_layer_but_the_one_being_made_is_ever_whole(monkeypatch):
    """Each linear layer is in 4 bits before the next is drawn."""
    whole, original = [], shape.in_4_bits

    def counted(weight, device):
        layer = original(weight, device)
        assert layer.weight.dtype == torch.uint8
        whole.append(weight.shape)
        return layer

    monkeypatch.setattr(shape, "in_4_bits", counted)
    model = shape.random_model(small(), "cpu")
    assert len(whole) == 14
    assert not any(t.is_meta for t in [*model.parameters(), *model.buffers()])
    plain = [p for p in model.parameters() if p.dtype != torch.uint8]
    assert sum(p.numel() for p in plain) == 1100 * 64 + 5 * 64
    ids = torch.randint(0, 1000, (2, 9))
    with torch.no_grad():
        assert torch.isfinite(model(input_ids=ids).last_hidden_state).all()


def test_positions_are_those_of_a_model_made_the_usual_way():
    from transformers import MistralModel

    made = shape.random_model(small(), "cpu").rotary_emb.inv_freq
    assert torch.equal(made, MistralModel(small()).rotary_emb.inv_freq)


def test_texts_of_full_length_are_all_different_and_full():
    settings = SETTINGS.changed(max_length=64)
    model = shape.student(small(), settings, "cpu")
    data = shape.of_full_length(3, settings)
    batch = gradcache.make_batch(data, "N2", settings, 0)
    chunks = gradcache.batch_chunks(model, batch, settings)
    assert (
        sum(chunks.sizes)
        == 15
        == 3 / settings.training.batch_size * footprint.texts_a_step(settings)
    )
    for group in chunks.groups:
        assert group["attention_mask"].all() and group["input_ids"].shape[1] == 64


def test_speed_counts_no_padding():
    rows = [*gpu.speed_rows(small(), SETTINGS, "cpu", 4, rate=1.0, steps=1)]
    found = values(rows)
    for name in gpu.LIMITS:
        tokens = next(row for row in rows if row["name"] == f"useful_tokens, {name}")
        assert tokens["ratio"] <= 1
        assert found[f"matrix_share, {name}"] == pytest.approx(
            2 * found[f"model_share, {name}"]  # four passes against two
        )
    assert len({found[f"useful_tokens, {name}"] for name in gpu.LIMITS}) == 1
    assert shape.matrix_rate("cpu", size=64, repeats=3) > 0


def test_memory_knobs_and_the_largest_mini_batch(monkeypatch, capsys):
    original = gradcache.group_vectors

    def limited(model, group):
        if group["input_ids"].numel() > 4 * 64:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(model, group)

    monkeypatch.setattr(gradcache, "group_vectors", limited)
    settings = SETTINGS.changed(max_length=64, mini_batch=4)
    rows = gpu.memory_rows(small(), settings, "cpu", (32, 64), (2, 4, 8))
    assert list(values(rows)) == [
        "peak_memory 2 x 32", "peak_memory 4 x 32", "peak_memory 8 x 32",
        "peak_memory 2 x 64", "peak_memory 4 x 64",
    ]  # fmt: skip
    assert "8 x 64 does not fit" in capsys.readouterr().out
    rows = gpu.fits_rows(small(), settings, "cpu", (16,), (1, 2, 4, 8, 16))
    assert values(rows) == {"largest_mini_batch 16 GB x 64": 4}
    found = values(gpu.knob_rows(small(), settings, "cpu", queries=2))
    assert "knob as it is, GB" in found and "knob mini_batch=64, s" not in found
    assert "knob max_length=256, s" not in found
    assert "mini_batch=64 does not fit" in capsys.readouterr().out
    table = footprint.knob_table(
        small(),
        settings,
        pd.DataFrame([{"name": k, "value": v} for k, v in found.items()]),
    )
    assert table.loc["lora_r=64", "measured s"] == found["knob lora_r=64, s"]


@pytest.mark.parametrize("upcast", [False, True])
def test_the_peer_is_the_librarys_and_in_4_bits(upcast):
    model = gpu_peer.peer_model(small(), SETTINGS, "cpu", upcast=upcast)
    kinds = [type(m).__name__ for m in model.modules()]
    assert kinds.count("Linear4bit") >= 14
    norms = {p.dtype for n, p in model.named_parameters() if "layernorm" in n}
    assert norms == {torch.float32 if upcast else torch.bfloat16}
    trained = [p for p in model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == footprint.trained_weights(small(), 16)


def test_peer_rows_have_both_sides():
    rows = [*gpu_peer.peer_rows(small(), SETTINGS, "cpu", queries=4, steps=1)]
    assert len(values(rows)) == 4
    assert all(row["ratio"] == row["value"] / row["peer"] for row in rows)


def test_rows_are_kept_as_they_come_and_without_a_gpu_it_is_said(tmp_path, monkeypatch):
    row = harness.row("a", 1.0, "s")

    def fails(*_):
        yield harness.row("b", 2.0, "s", peer=4.0)
        raise RuntimeError("the card fell off")

    for name in ("peer_rows", "fits_rows", "memory_rows", "knob_rows"):
        monkeypatch.setattr(gpu, name, fails)
    monkeypatch.setattr(gpu, "speed_rows", lambda *_: iter([row]))
    path = tmp_path / "gpu" / "card.csv"
    with pytest.raises(RuntimeError, match="fell off"):
        gpu.measure(small(), SETTINGS, "cpu", path)
    table = footprint.measurements(path.parent)
    assert list(table["name"]) == ["a", "b"] and table["ratio"][1] == 0.5
    assert "torch" in table["versions"][0]
    for name in ("peer_rows", "fits_rows", "memory_rows", "knob_rows"):
        monkeypatch.setattr(gpu, name, lambda *_: iter([row]))
    monkeypatch.setattr(gpu, "search_row", lambda *_: row)
    assert len(gpu.measure(small(), SETTINGS, "cpu", path)) == 6
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LabError, match="needs a CUDA GPU"):
        harness.bench("gpu")


def test_search_is_measured():
    row = gpu.search_row("cpu", documents=300, queries=20, width=16)
    assert row["value"] > 0 and row["name"] == "search 20 x 300 x 16"
