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
from nbutils.encoder.templates import template_of

PLAIN = {"mean": "mean", "last": "lasttoken", "first": "cls",
         "weighted_mean": "weightedmean"}  # fmt: skip
"""Poolings that the library has, and its names of them."""


def export_student(model: SentenceTransformer, folder: str | Path) -> Path:
    """Save a student as Transformer, Pooling, Normalize, its adapters merged.

    The folder opens without this package and without `trust_remote_code`, in float32;
    vectors of texts (without space around them) are the same. Stored prompts are saved
    as the text format writes them. Where prompts are not pooled, the library leaves out
    as many tokens as a prompt has alone, which may be one more or less. LabError for
    what no plain module does: ATA, a template around the text, `pooled_tokens=text`.
    """
    section, mode = model[0].section, model[1].mode
    text_format = section.text_format
    for setting, value, plain in (
        ("pooling", mode, mode in PLAIN),
        ("text_format", text_format, template_of(text_format) == "{text}"),
        ("pooled_tokens", section.pooled_tokens, section.pooled_tokens != "text"),
    ):
        if not plain:
            raise LabError(
                f"a student with {setting}={value} cannot be exported, for no plain "
                "module does that: open it with trust_remote_code, or train another"
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
    both_ways = not getattr(config, "is_causal", True)
    with quiet(), atomic(folder) as made, TemporaryDirectory() as weights:
        config._attn_implementation, pooler = "eager", without_pooler(config)
        whole = AutoModel.from_config(config, dtype=torch.float32, **pooler)
        whole.load_state_dict(merged.state_dict())
        whole.save_pretrained(weights)
        model.tokenizer.save_pretrained(weights)
        # without padding, SDPA makes a decoder causal whatever its configuration says
        eager = {"attn_implementation": "eager"} if both_ways else {}
        longest = model.max_seq_length
        transformer = Transformer(weights, max_seq_length=longest, model_kwargs=eager)
        pooling = Pooling(
            config.hidden_size, PLAIN[mode], section.pooled_tokens == "all"
        )
        prompts = {
            name: template_of(text_format, prompt)
            .replace("{instruction}", prompt).replace("{text}", "")
            for name, prompt in model.prompts.items()
        }  # fmt: skip
        plain = SentenceTransformer(
            modules=[transformer, pooling, Normalize()],
            prompts=prompts,
            default_prompt_name=model.default_prompt_name,
        )
        plain.model_card_data.base_model = model.model_card_data.base_model
        plain.save(str(made))
    return Path(folder)
