"""A student as plain modules of sentence-transformers, which any machine opens."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize, Transformer
from sentence_transformers.sentence_transformer.modules import Pooling
from transformers import AutoModel

from nbutils.core.errors import LabError
from nbutils.core.files import atomic
from nbutils.encoder.models import quiet, without_pooler
from nbutils.encoder.student import unpack_student

POOLINGS = {"mean": "mean", "last": "lasttoken", "first": "cls"}
"""Poolings that the library has, and its names of them."""
EXPORTED = {
    "pooling": (*POOLINGS,), "text_format": ("plain",),
    "pooled_tokens": ("llm2vec", "all"),
}  # fmt: skip
"""What plain modules can do."""


def export_student(model: SentenceTransformer, folder: str | Path) -> Path:
    """Save a student as Transformer, Pooling, Normalize, its adapters merged.

    The folder opens without this package and without `trust_remote_code`, in float32;
    vectors of texts (without space around them) are the same. Where prompts are not
    pooled, the library leaves out as many tokens as a prompt has alone, which may be
    one more or less. LabError for what is not `EXPORTED`, such as ATA.
    """
    section = model[0].section.model_copy(update={"pooling": model[1].mode})
    for name, able in EXPORTED.items():
        if (value := getattr(section, name)) not in able:
            raise LabError(
                f"no plain module does what a student with {name}={value} does: open "
                f"it with trust_remote_code, or train one with {' or '.join(able)}"
            )
    merged = unpack_student(model)[0].model
    for parent in list(merged.modules()):
        for name, layer in list(parent.named_children()):
            if isinstance(layer, BaseTunerLayer):
                base = layer.get_base_layer()
                for adapter in [] if layer.disable_adapters else layer.active_adapters:
                    base.weight.data += layer.get_delta_weight(adapter)
                setattr(parent, name, base)
    config = merged.config
    config.__dict__.pop("quantization_config", None)
    # without padding, SDPA makes a decoder causal whatever its configuration says
    causal = getattr(config, "is_causal", True)
    attention = {} if causal else {"attn_implementation": "eager"}
    config._attn_implementation, pooler = "eager", without_pooler(config)
    with quiet(), atomic(folder) as made, TemporaryDirectory() as weights:
        whole = AutoModel.from_config(config, dtype=torch.float32, **pooler)
        whole.load_state_dict(merged.state_dict())
        whole.save_pretrained(weights)
        model.tokenizer.save_pretrained(weights)
        longest, whole_prompt = section.max_length, section.pooled_tokens == "all"
        first = Transformer(weights, model_kwargs=attention, max_seq_length=longest)
        pooling = POOLINGS[section.pooling]
        modules = [
            first,
            Pooling(config.hidden_size, pooling, whole_prompt),
            Normalize(),
        ]
        plain = SentenceTransformer(modules=modules, prompts=model.prompts)
        plain.default_prompt_name = model.default_prompt_name
        plain.model_card_data.base_model = model.model_card_data.base_model
        plain.save(str(made))
    return Path(folder)
