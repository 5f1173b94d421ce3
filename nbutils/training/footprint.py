"""What training takes on one GPU, computed from shapes: memory and matrix work.

For a decoder of Mistral's architecture with LoRA on every linear layer (QLoRA,
LLM2Vec); `python -m benchmarks gpu` measures the same on a card.
"""

from pathlib import Path
from typing import Any

import pandas as pd
from transformers import MistralConfig

from nbutils.core.errors import LabError
from nbutils.core.files import read_table
from nbutils.core.settings import DATA, Settings

MISTRAL_7B = MistralConfig(sliding_window=None)
"""Mistral-7B-Instruct-v0.2's shape: the library's default, without a window."""
MEASURED = DATA / "results" / "gpu"
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""A weight in NF4: 4 bits, an 8-bit constant for 64 weights (double quantization), and
a 32-bit one for 256 of those (QLoRA, section 3)."""
OPTIMIZER_BYTES = {"adamw": 8.0, "paged_adamw_8bit": 2.0 + 2 * 4 / 256}
"""Two moments of a trained weight; in 8 bits a 32-bit constant for 256 of each."""
KNOBS: dict[str, dict[str, Any]] = {
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


def weights(config: MistralConfig, r: int) -> tuple[int, int]:
    """Weights of all linear layers, embeddings left out: frozen ones, and LoRA's."""
    hidden, inner = config.hidden_size, config.intermediate_size
    queries = config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    attention = [(hidden, queries), (hidden, keys), (hidden, keys), (queries, hidden)]
    layer = [*attention, (hidden, inner), (hidden, inner), (inner, hidden)]
    frozen = sum(inputs * outputs for inputs, outputs in layer)
    trained = sum(r * (inputs + outputs) for inputs, outputs in layer)
    return config.num_hidden_layers * frozen, config.num_hidden_layers * trained


def kept_bytes(config: MistralConfig) -> int:
    """Bytes that one layer with LoRA keeps of one token for the backward pass.

    In bfloat16: inputs and outputs of the linear layers, queries, keys and values; in
    32 bits: both norms'. Counted from what autograd keeps.
    """
    return 36 * config.hidden_size + 8 * config.intermediate_size


def tokens_a_step(settings: Settings) -> int:
    """Tokens of a step whose texts all differ and have `max_length` tokens."""
    texts = settings.training.batch_size * (3 + settings.training.retrieved_per_query)
    return texts * settings.encoder.max_length


def memory(config: MistralConfig, settings: Settings) -> dict[str, float]:
    """GB of each part at the peak of a step of `tokens_a_step`.

    With gradient checkpointing a layer's input is kept, and one layer in full; with
    `gradient_cache` one mini-batch, else the whole batch. What kernels need for
    themselves, and the CUDA context, are not in it.
    """
    layers, hidden = config.num_hidden_layers, config.hidden_size
    encoder, training = settings.encoder, settings.training
    frozen, trained = weights(config, encoder.lora_r)
    plain = config.vocab_size * hidden + (2 * layers + 1) * hidden
    each = NF4_BYTES if encoder.quantization == "nf4" else 2
    tokens = tokens_a_step(settings)
    if training.gradient_cache:
        tokens = min(tokens, training.mini_batch * encoder.max_length)
        limit = training.mini_batch_tokens or tokens
        tokens = min(tokens, max(limit, encoder.max_length))
    a_token = layers * kept_bytes(config)
    if encoder.gradient_checkpointing:
        a_token = layers * 2 * hidden + kept_bytes(config)
    parts = {
        "weights": frozen * each + plain * 2,
        "adapters": trained * 4,
        "gradients": trained * 4,
        "optimizer": trained * OPTIMIZER_BYTES[training.optimizer],
        "activations": tokens * a_token,
    }
    return {name: size / 1e9 for name, size in parts.items()}


def matrix_work(config: MistralConfig, settings: Settings, tokens: float) -> float:
    """TFLOP of the frozen weights' matrix products over `tokens` tokens of a step.

    A token goes forward and backward through the weights, once more for GradCache and
    once for checkpointing.
    """
    encoder = settings.encoder
    frozen, _ = weights(config, encoder.lora_r)
    passes = 2 + settings.training.gradient_cache + encoder.gradient_checkpointing
    return 2 * frozen * tokens * passes / 1e12


def knob_table(
    config: MistralConfig, settings: Settings, measured: pd.DataFrame | None = None
) -> pd.DataFrame:
    """One row a change of KNOBS: its GB by part and in all, and TFLOP a step.

    With `measurements`' table also `measured GB` and `measured s` of the same change.
    """
    rows = {}
    for name, changes in KNOBS.items():
        changed = settings.changed(**changes)
        parts = memory(config, changed)
        work = matrix_work(config, changed, tokens_a_step(changed))
        rows[name] = {**parts, "GB": sum(parts.values()), "TFLOP a step": work}
    table = pd.DataFrame.from_dict(rows, orient="index").rename_axis("setting")
    if measured is not None:
        values = measured.set_index("name")["value"]
        for unit in ("GB", "s"):
            names = [f"knob {name}, {unit}" for name in KNOBS]
            table[f"measured {unit}"] = values.reindex(names).to_numpy()
    return table


def measurements(folder: Path = MEASURED) -> pd.DataFrame | None:
    """A card's rows, as `python -m benchmarks gpu` wrote them; None where none are.

    LabError where the folder holds several csv files (which card is meant?).
    """
    paths = sorted(Path(folder).glob("*.csv"))
    if len(paths) > 1:
        names = ", ".join(path.name for path in paths)
        raise LabError(f"{folder} holds {names}: keep the one to be shown")
    return read_table(paths[0]) if paths else None
