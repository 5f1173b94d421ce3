"""The suite for one GPU, run on the CPU with a small shape: the same functions."""

import weakref

import pandas as pd
import pytest
import torch
from transformers import MistralConfig, MistralModel

from benchmarks import gpu
from benchmarks.harness import row
from benchmarks.training import peer_model
from nbutils.core.errors import LabError
from nbutils.core.settings import resolve
from nbutils.training import footprint, gradcache

SETTINGS = resolve("paper", {"device": "cpu", "optimizer": "adamw", "mini_batch": 8})
SMALL = MistralConfig(
    vocab_size=1100, hidden_size=64, intermediate_size=128, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, head_dim=16, sliding_window=None,
)  # fmt: skip


@pytest.fixture(autouse=True)
def small(monkeypatch):
    sizes = {"QUERIES": 4, "KNOB_QUERIES": 2, "MATRIX": 64, "SEARCH": (20, 300, 16)}
    for name, value in sizes.items():
        monkeypatch.setattr(gpu, name, value)


def values(rows) -> dict[str, float]:
    found = {row["name"]: row["value"] for row in rows}
    assert all(value > 0 for value in found.values()), found
    return found


def test_no_layer_but_the_one_being_made_is_ever_whole(monkeypatch):
    """Each linear layer is gone before the next is drawn."""
    whole, original = [], gpu.in_4_bits

    def counted(weight, device):
        assert not any(earlier() is not None for earlier in whole)
        whole.append(weakref.ref(weight))
        return original(weight, device)

    monkeypatch.setattr(gpu, "in_4_bits", counted)
    model = gpu.random_model(SMALL, "", {"": "cpu"}, quantization_config=True)
    assert len(whole) == 14
    assert sum(p.dtype == torch.uint8 for p in model.parameters()) == 14
    assert not any(t.is_meta for t in [*model.parameters(), *model.buffers()])
    usual = MistralModel(SMALL).rotary_emb.inv_freq
    assert torch.equal(model.rotary_emb.inv_freq, usual)
    with torch.no_grad():
        found = model(input_ids=torch.randint(0, 1000, (2, 9)))
    assert torch.isfinite(found.last_hidden_state).all()
    plain = gpu.random_model(SMALL, "", {"": "cpu"})
    assert {p.dtype for p in plain.parameters()} == {torch.bfloat16}


def test_texts_of_full_length_are_all_different_and_full():
    settings = SETTINGS.changed(max_length=64)
    model, batch = gpu.student(SMALL, settings), gpu.full_batch(3, settings)
    groups, order = gradcache.batch_chunks(model, batch, settings)
    assert len(set(order)) == 3 * (3 + settings.training.retrieved_per_query)
    for group in groups:
        assert group["attention_mask"].all() and group["input_ids"].shape[1] == 64


def test_speed_counts_no_padding(monkeypatch):
    counted, original = [], footprint.matrix_work

    def noted(config, settings, tokens):
        counted.append(tokens)
        return original(config, settings, tokens)

    monkeypatch.setattr(footprint, "matrix_work", noted)
    speed, share = gpu.speed_rows(SMALL, SETTINGS)
    assert speed["value"] > 0 and share["ratio"] > 0
    model = gpu.student(SMALL, SETTINGS)
    batch = gpu.batches(SETTINGS.changed(batch_size=4), 1)[0]
    groups, _ = gradcache.batch_chunks(model, batch, SETTINGS)
    masks = [group["attention_mask"] for group in groups]
    assert counted == [sum(int(mask.sum()) for mask in masks)]
    assert counted[0] < sum(mask.numel() for mask in masks)


def test_knobs_are_measured_and_what_does_not_fit_is_said(monkeypatch, capsys):
    original = gradcache.group_vectors

    def limited(model, group):
        if group["input_ids"].numel() > 4 * 64:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return original(model, group)

    monkeypatch.setattr(gradcache, "group_vectors", limited)
    settings = SETTINGS.changed(max_length=64, mini_batch=4)
    found = values(gpu.knob_rows(SMALL, settings))
    assert "knob as it is, GB" in found and "knob mini_batch=64, s" not in found
    assert "mini_batch=64 does not fit" in capsys.readouterr().out
    measured = pd.DataFrame(found.items(), columns=["name", "value"])
    table = footprint.knob_table(SMALL, settings, measured)
    assert table.loc["lora_r=64", "measured s"] == found["knob lora_r=64, s"]


@pytest.mark.parametrize("upcast", [False, True])
def test_the_peer_is_the_librarys_and_in_4_bits(upcast):
    folder = str(gpu.tiny_folder("tiny-mistral", gpu.ROOT / ".cache"))
    with gpu.random_weights(SMALL):
        model = peer_model(SETTINGS.changed(student=folder), upcast=upcast)
    kinds = [type(m).__name__ for m in model.modules()]
    assert kinds.count("Linear4bit") >= 14
    norms = {p.dtype for n, p in model.named_parameters() if "layernorm" in n}
    assert norms == {torch.float32 if upcast else torch.bfloat16}
    trained = [p for p in model.parameters() if p.requires_grad]
    assert sum(p.numel() for p in trained) == footprint.weights(SMALL, 16)[1]


def test_peer_rows_have_both_sides():
    rows = [*gpu.peer_rows(SMALL, SETTINGS)]
    assert len(values(rows)) == 4 and all(row["ratio"] > 0 for row in rows)


def test_rows_are_kept_as_they_come_and_without_a_gpu_it_is_said(tmp_path, monkeypatch):
    def fails(*_):
        yield row("b", 2.0, "s", peer=4.0)
        raise RuntimeError("the card fell off")

    parts = (lambda *_: iter([row("a", 1.0, "s")]), fails, gpu.search_rows)
    monkeypatch.setattr(gpu, "PARTS", parts)
    with pytest.raises(RuntimeError, match="fell off"):
        gpu.rows(str(tmp_path), SMALL, SETTINGS)
    table = footprint.measurements(tmp_path / "gpu")
    assert list(table["name"]) == ["a", "b"] and table["ratio"][1] == 0.5
    assert "torch" in table["versions"][0]
    monkeypatch.setattr(gpu, "PARTS", parts[::2])
    assert "search 20 x 300 x 16" in values(gpu.rows(str(tmp_path), SMALL, SETTINGS))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(LabError, match="need a GPU and none is visible"):
        gpu.rows(str(tmp_path))
