"""What training takes on one GPU, computed from shapes: memory and matrix work.

Nothing is measured here. For a decoder of Mistral's architecture with LoRA on every
linear layer (QLoRA, LLM2Vec); what a card measures comes from `benchmarks gpu`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from transformers import MistralConfig

from nbutils.core.errors import LabError
from nbutils.core.fields import Settings
from nbutils.core.files import read_table
from nbutils.core.settings import DATA

MISTRAL_7B = MistralConfig(sliding_window=None)
"""Mistral-7B-Instruct-v0.2's shape: the library's default, without a window."""
MEASURED = DATA / "results" / "gpu"
GB = 1e9
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""A weight in NF4: 4 bits, an 8-bit constant for 64 weights (double quantization), and
a 32-bit one for 256 of those (QLoRA, section 3)."""
OPTIMIZER_BYTES = {"adamw": 8.0, "paged_adamw_8bit": 2.0 + 2 * 4 / 256}
"""Two moments of a trained weight; in 8 bits a 32-bit constant for 256 of each."""
KNOBS: Mapping[str, Mapping[str, Any]] = {
    "as it is": {},
    "quantization=none": {"quantization": "none"},
    "optimizer=adamw": {"optimizer": "adamw"},
    "lora_r=64": {"lora_r": 64},
    "max_length=256": {"max_length": 256},
    "mini_batch=4": {"mini_batch": 4},
    "mini_batch=64": {"mini_batch": 64, "mini_batch_tokens": 0},
    "gradient_checkpointing=false": {"gradient_checkpointing": False},
    "gradient_cache=false": {"gradient_cache": False},
}
"""Changes of the `paper` profile whose price is told, one at a time."""


def linears(config: MistralConfig) -> list[tuple[int, int]]:
    """(inputs, outputs) of every linear layer of a decoder, embeddings left out."""
    hidden, inner = config.hidden_size, config.intermediate_size
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    attention = [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden)]
    return (attention + [(hidden, inner)] * 2 + [(inner, hidden)]) * (
        config.num_hidden_layers
    )


def trained_weights(config: MistralConfig, r: int) -> int:
    """Weights of LoRA's two matrices on every linear layer."""
    return sum(r * (inputs + outputs) for inputs, outputs in linears(config))


def kept_bytes(config: MistralConfig) -> int:
    """Bytes that one layer keeps of one token for the backward pass, in bfloat16.

    Counted, in a layer with LoRA, from what autograd keeps: inputs and outputs of the
    linear layers, both norms' in 32 bits, queries, keys and values.
    """
    return 36 * config.hidden_size + 8 * config.intermediate_size


def memory(config: MistralConfig, settings: Settings) -> dict[str, float]:
    """GB of each part at the peak of a step whose texts all have `max_length` tokens.

    Parts: weights, adapters, gradients, optimizer, activations. With gradient
    checkpointing a layer's input is kept, and one layer in full; with `gradient_cache`
    one mini-batch, else the whole batch. What kernels need for themselves, and the CUDA
    context, are not in it.
    """
    layers, hidden = config.num_hidden_layers, config.hidden_size
    each = NF4_BYTES if settings.encoder.quantization == "nf4" else 2
    trained = trained_weights(config, settings.encoder.lora_r)
    texts = texts_a_step(settings)
    if settings.training.gradient_cache:
        texts = min(texts, settings.training.mini_batch)
    tokens = texts * settings.encoder.max_length
    if settings.training.gradient_cache and settings.training.mini_batch_tokens:
        tokens = min(
            tokens,
            max(settings.training.mini_batch_tokens, settings.encoder.max_length),
        )
    a_token = layers * kept_bytes(config)
    if settings.encoder.gradient_checkpointing:
        a_token = layers * 2 * hidden + kept_bytes(config)
    frozen = sum(inputs * outputs for inputs, outputs in linears(config))
    plain = config.vocab_size * hidden + (2 * layers + 1) * hidden
    return {
        "weights": (frozen * each + plain * 2) / GB,
        "adapters": trained * 4 / GB,
        "gradients": trained * 4 / GB,
        "optimizer": trained * OPTIMIZER_BYTES[settings.training.optimizer] / GB,
        "activations": tokens * a_token / GB,
    }


def texts_a_step(settings: Settings) -> int:
    """Texts of one step: queries, positives and explicit negatives, all different."""
    return settings.training.batch_size * (3 + settings.training.retrieved_per_query)


def passes(settings: Settings) -> int:
    """How often a token goes through the weights in a step.

    Forward and backward (frozen weights need no gradient of their own), once more
    forward for GradCache and once more for gradient checkpointing.
    """
    return (
        2 + settings.training.gradient_cache + settings.encoder.gradient_checkpointing
    )


def matrix_work(config: MistralConfig, settings: Settings, tokens: float) -> float:
    """TFLOP of the frozen weights' matrix products over `tokens` tokens of a step."""
    frozen = sum(inputs * outputs for inputs, outputs in linears(config))
    return 2 * frozen * tokens * passes(settings) / 1e12


def knob_table(
    config: MistralConfig, settings: Settings, measured: pd.DataFrame | None = None
) -> pd.DataFrame:
    """One row a change of KNOBS: its GB by part and in all, and TFLOP a step.

    `measured` is `measurements`' table: where it is given, the columns `measured GB`
    and `measured s` hold what a card needed for the same change.
    """
    rows = []
    for name, changes in KNOBS.items():
        changed = settings.changed(**dict(changes))
        parts = memory(config, changed)
        tokens = texts_a_step(changed) * changed.encoder.max_length
        work = matrix_work(config, changed, tokens)
        whole = {**parts, "GB": sum(parts.values()), "TFLOP a step": work}
        rows.append({"setting": name, **whole})
    table = pd.DataFrame(rows).set_index("setting")
    if measured is not None:
        values = measured.set_index("name")["value"]
        for unit in ("GB", "s"):
            found = [values.get(f"knob {name}, {unit}") for name in table.index]
            table[f"measured {unit}"] = found
    return table


def measurements(folder: Path = MEASURED) -> pd.DataFrame | None:
    """The rows of a card as `benchmarks gpu` wrote them: a csv file's, or None.

    LabError where there are several (which card is meant?) or one without its columns.
    """
    paths = sorted(Path(folder).glob("*.csv"))
    if not paths:
        return None
    if len(paths) > 1:
        names = ", ".join(path.name for path in paths)
        raise LabError(f"{folder} holds {names}: keep the one to be shown")
    table = read_table(paths[0])
    if not {"name", "value", "unit", "device"} <= set(table.columns):
        raise LabError(f"{paths[0]} was not written by 'python -m benchmarks gpu'")
    return table
