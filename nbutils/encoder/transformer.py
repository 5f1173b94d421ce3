"""A transformer as the student needs it: in 4 bits, both ways, without dropout."""

from typing import Any

import torch
from bitsandbytes.nn import Linear4bit
from transformers import AutoConfig, AutoModel, BitsAndBytesConfig, PreTrainedModel

from nbutils.core.errors import LabError
from nbutils.core.sections import Encoder
from nbutils.encoder import models
from nbutils.encoder.attention import attention_layers, listen


def refused(name: str, reason: str, change: str = "student to another") -> LabError:
    """The error of a model that the student cannot be made of, as asked."""
    return LabError(f"{name} cannot be this student: {reason}; set {change}")


def load_transformer(
    section: Encoder, source: str, device: str, compute: torch.dtype
) -> PreTrainedModel:
    """The first layers of a frozen transformer, from `source`, as `section` has it.

    LabError for one with a decoder beside its encoder, with fewer layers than asked,
    whose attention ATA cannot read, or that cannot attend both ways.
    """
    name = section.student
    config = models.load_pretrained(AutoConfig.from_pretrained, source)
    if config.is_encoder_decoder:
        raise refused(name, "it has an encoder and a decoder")
    without_dropout(config)
    config.use_cache = False  # nothing is generated
    kept, there = section.student_layers, config.num_hidden_layers
    if kept > there:
        raise LabError(
            f"student_layers is {kept} and {name} has {there} layers: keep as many or "
            "fewer, or 0 for all"
        )
    if kept:
        config.num_hidden_layers = kept
        if getattr(config, "layer_types", None):
            config.layer_types = config.layer_types[:kept]
    model = models.load_pretrained(
        AutoModel.from_pretrained,
        source,
        config=config,
        dtype=torch.bfloat16 if "cuda" in device else torch.float32,
        device_map={"": device},
        quantization_config=quantization_config(section.quantization, compute),
        **models.without_pooler(config),
    )
    tapped = listen(model)
    if section.pooling == "ata" and not tapped:
        raise refused(name, "ATA cannot read its attention", "pooling=mean, say")
    keep_differentiable(model)
    if section.bidirectional:
        make_bidirectional(model)
        if not tapped and not looks_ahead(model):
            raise refused(name, "it attends backwards only", "bidirectional=false")
    return model.requires_grad_(False)


def quantization_config(name: str, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """NF4 with double quantization (QLoRA), or None."""
    return None if name == "none" else BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type=name,
        bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype,
    )  # fmt: skip


def make_bidirectional(model: torch.nn.Module) -> None:
    """Let every token of a decoder attend to every other (LLM2Vec, section 2).

    The configuration changes the mask; the flag on each layer must change too, because
    SDPA trusts it where nothing is padded. A model that attends both ways already, such
    as EmbeddingGemma, keeps its own mask and window.
    """
    layers = attention_layers(model)
    if layers and not any(layer.is_causal for layer in layers):
        return
    model.config.is_causal = False
    for layer in layers:
        layer.is_causal = False


def looks_ahead(model: torch.nn.Module) -> bool:
    """Whether the first token's state changes with the second token."""
    ids = torch.tensor([[5, 6], [5, 7]], device=model.device)
    given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    try:
        with torch.no_grad():
            one, other = model(**given).last_hidden_state[:, 0].float()
    except AttributeError:  # MPT cannot do without its causal mask
        return False
    return bool((one - other).abs().max() > 1e-4 * one.abs().max())


def without_dropout(config) -> None:
    """No dropout inside the frozen backbone, as in Mistral; LoRA's own is a setting."""
    for name, value in vars(config).items():
        if "drop" in name and isinstance(value, float):
            setattr(config, name, 0.0)
        elif hasattr(value, "to_dict"):  # a part's own configuration
            without_dropout(value)


def keep_differentiable(model: torch.nn.Module) -> None:
    """Let 4-bit layers be trained after eval mode, and their state dict be loaded.

    On some processors bitsandbytes repacks weights in eval mode, without a gradient. It
    writes scales into a state dict that it cannot read: frozen layers have their own.
    """
    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
            module.register_load_state_dict_pre_hook(_without_scales)


def _without_scales(module, state: dict[str, Any], prefix: str, *args) -> None:
    for name in [key for key in state if key.startswith(f"{prefix}weight.")]:
        del state[name]
