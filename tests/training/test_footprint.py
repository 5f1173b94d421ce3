"""Memory and work by formula against what models and autograd count themselves."""

import pandas as pd
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import MistralConfig, MistralModel

from benchmarks.gpu import in_4_bits, student
from nbutils.core.errors import LabError
from nbutils.core.settings import resolve
from nbutils.training import footprint

PAPER = resolve("paper")


def shape(hidden=256, inner=896, layers=2) -> MistralConfig:
    return MistralConfig(
        vocab_size=512, hidden_size=hidden, intermediate_size=inner,
        num_hidden_layers=layers, num_attention_heads=4, num_key_value_heads=2,
        head_dim=hidden // 4, sliding_window=None, use_cache=False,
    )  # fmt: skip


def test_weights_and_adapters_are_the_models_own():
    config, settings = shape(), resolve("paper", {"quantization": "none"})
    parts = footprint.memory(config, settings)
    model = MistralModel(config).to(torch.bfloat16).requires_grad_(False)
    model = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear"))
    sizes = {True: 0, False: 0}
    for parameter in model.parameters():
        sizes[parameter.requires_grad] += parameter.numel()
    assert parts["adapters"] * 1e9 == 4 * sizes[True]
    assert parts["weights"] * 1e9 == 2 * sizes[False]


def test_four_bits_are_counted_as_the_library_stores_them():
    layer = in_4_bits(torch.randn(1024, 512), "cpu")
    state = layer.weight.quant_state
    stored = [layer.weight.data, state.absmax, state.state2.absmax]
    size = sum(t.numel() * t.element_size() for t in stored)
    assert size / (1024 * 512) == pytest.approx(footprint.NF4_BYTES, rel=1e-3)


@pytest.mark.parametrize(("hidden", "inner"), [(256, 896), (512, 1024)])
def test_a_layer_keeps_what_autograd_counts(hidden, inner):
    """The difference that one more layer makes, LoRA's own casts taken off."""
    changes = {"device": "cpu", "gradient_checkpointing": False}
    mask = torch.ones(4, 64, dtype=torch.long)
    mask[0, 40:] = 0

    def kept(layers: int) -> int:
        model = student(shape(hidden, inner, layers), PAPER.changed(**changes))
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        found = {}

        def note(tensor):
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in own:  # held, so that no address comes twice
                found[storage.data_ptr()] = storage
            return tensor

        features = {"input_ids": torch.randint(5, 500, (4, 64))}
        features |= {"attention_mask": mask, "pooling_mask": mask}
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            model[0](features)
        return sum(storage.nbytes() for storage in found.values())

    casts = 2 * footprint.weights(shape(hidden, inner, 1), 16)[1]
    found = (kept(2) - kept(1) - casts) / mask.numel()
    assert found == pytest.approx(footprint.kept_bytes(shape(hidden, inner)), rel=0.1)


def test_the_paper_profile_by_hand():
    """Mistral-7B: 6.98 billion linear weights, 41.9 million in LoRA of rank 16."""
    config = footprint.MISTRAL_7B
    frozen, trained = footprint.weights(config, 16)
    assert frozen == pytest.approx(6.979e9, rel=1e-3) and trained == 41_943_040
    parts = footprint.memory(config, PAPER)
    assert parts["weights"] == pytest.approx(6.979e9 * 0.516 / 1e9 + 0.263, rel=0.01)
    inputs = 32 * 16 * 512 * 4096 * 2 / 1e9
    assert inputs < parts["activations"] < 3 * inputs
    # forward, backward, GradCache's and checkpointing's pass; two each weight and token
    work = footprint.matrix_work(config, PAPER, 1000)
    assert work == pytest.approx(4 * 2 * 6.979e9 * 1000 / 1e12, rel=1e-3)


def test_knobs_move_what_they_should_and_measured_columns_appear():
    table = footprint.knob_table(footprint.MISTRAL_7B, PAPER)
    base = table.loc["as it is"]
    for name, part in {
        "quantization=none": "weights",
        "optimizer=adamw": "optimizer",
        "lora_r=64": "adapters",
        "mini_batch=64": "activations",
        "gradient_checkpointing=false": "activations",
    }.items():
        assert table.loc[name, part] > 1.5 * base[part], name
    assert table.loc["gradient_cache=false", "GB"] > 100
    assert table.loc["gradient_cache=false", "TFLOP a step"] < base["TFLOP a step"]
    assert not [column for column in table if "measured" in column]
    rows = pd.DataFrame(
        {"name": ["knob lora_r=64, GB", "knob as it is, s"], "value": [9.5, 3.0]}
    )
    table = footprint.knob_table(footprint.MISTRAL_7B, PAPER, rows)
    assert table.loc["lora_r=64", "measured GB"] == 9.5
    assert table.loc["as it is", "measured s"] == 3.0
    assert table["measured s"].notna().sum() == 1


def test_measurements_are_one_cards_or_none(tmp_path):
    assert footprint.measurements(tmp_path) is None
    rows = pd.DataFrame([{"name": "a", "value": 1.0, "unit": "s", "device": "card"}])
    rows.to_csv(tmp_path / "card.csv", index=False)
    assert footprint.measurements(tmp_path).equals(rows)
    rows.to_csv(tmp_path / "other.csv", index=False)
    with pytest.raises(LabError, match=r"card\.csv, other\.csv: keep the one"):
        footprint.measurements(tmp_path)
