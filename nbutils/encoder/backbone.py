"""The backbone of the student: a transformer in 4 bits with LoRA, on any device.

`Backbone` is the first module of a SentenceTransformer. What it is made of (model,
quantization, adapters, attention direction, text format) is saved with it.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from bitsandbytes.functional import dequantize_4bit
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.tuners_utils import BaseTunerLayer
from sentence_transformers.base.modules import InputModule
from transformers import AutoConfig, AutoModel, AutoTokenizer, BitsAndBytesConfig

from nbutils.core.errors import LabError, nearest
from nbutils.core.settings import ROOT
from nbutils.encoder.attention import TAPPED, TRANSFORMS, attention_tap, last_attention
from nbutils.encoder.models import (
    TINY,
    compute_dtype,
    length_limit,
    load_pretrained,
    quiet,
    tiny_folder,
)
from nbutils.encoder.templates import POOLED, Pieces, around_text, tokenize


def quantization_config(name: str, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """NF4 with double quantization (QLoRA), or None."""
    if name == "none":
        return None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )


def make_bidirectional(model: torch.nn.Module) -> None:
    """Let every token of a decoder attend to every other (LLM2Vec, section 2).

    The configuration changes the mask; the flag on each layer must change too, because
    SDPA is called without a mask where nothing is padded and then trusts the flag.
    """
    model.config.is_causal = False
    for module in model.modules():
        if hasattr(module, "is_causal"):
            module.is_causal = False


def without_dropout(config) -> None:
    """No dropout inside the frozen backbone; LoRA's own is a setting.

    Decoders such as Mistral have none; BERT's would force the slow attention path and
    make a cached gradient depend on replayed random numbers.
    """
    for name, value in config.to_dict().items():
        if "dropout" in name and isinstance(value, float):
            setattr(config, name, 0.0)


def keep_differentiable(model: torch.nn.Module) -> None:
    """Stop bitsandbytes from repacking weights in eval mode on some processors.

    The packed layout has no gradient, so the first forward pass in eval mode would
    make later training fail.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


class Backbone(InputModule):
    """A transformer, its tokenizer, its text format and its adapters.

    `forward` reads `input_ids` and `attention_mask` (batch, tokens) and writes
    `token_embeddings` (batch, tokens, dim) and, if `tap`, `received_attention`
    (batch, tokens). Source: QLoRA (4 bits), LLM2Vec (attention, template).

    `text_format`, `pooled_tokens` and `transform` are those of `templates` and
    `attention`; `tap_gradient` lets the gradient through ATA's weights. LabError for
    unknown ones and for a `max_seq_length` that the model does not have.
    """

    config_keys = [  # noqa: RUF012
        "name",
        "quantization",
        "dtype",
        "bidirectional",
        "text_format",
        "pooled_tokens",
        "max_seq_length",
        "tap",
        "tap_gradient",
        "transform",
        "has_adapter",
        "own_weights",
    ]
    config_file_name = "backbone.json"
    save_in_root = False

    def __init__(
        self,
        name: str,
        *,
        quantization: str = "nf4",
        dtype: str = "auto",
        bidirectional: bool = True,
        text_format: str = "plain",
        pooled_tokens: str = "llm2vec",
        max_seq_length: int = 160,
        tap: bool = True,
        tap_gradient: bool = False,
        transform: str = "log",
        device: str = "cpu",
        has_adapter: bool = False,
        own_weights: bool = False,
        folder: str | None = None,
    ):
        super().__init__()
        around_text(text_format)
        for given, known in ((pooled_tokens, POOLED), (transform, TRANSFORMS)):
            if given not in known:
                raise LabError(f"unknown {given!r}{nearest(given, known)}")
        self.name = name
        self.quantization = quantization
        self.dtype = dtype
        self.bidirectional = bidirectional
        self.text_format = text_format
        self.pooled_tokens = pooled_tokens
        self.tap = tap
        self.tap_gradient = tap_gradient
        self.transform = transform
        self.has_adapter = False
        self.own_weights = own_weights
        self.compute = compute_dtype(dtype, device)
        source = self._source(folder)
        self.tokenizer = load_pretrained(AutoTokenizer, source)
        self.tokenizer.padding_side = "right"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self._pieces: dict[tuple[str, str], Pieces] = {}
        self.model = self._load(source, device)
        self.max_seq_length = max_seq_length
        if bidirectional:
            make_bidirectional(self.model)
        keep_differentiable(self.model)
        self.model.requires_grad_(False)
        self._last = (last_attention(self.model),)  # in a tuple: no submodule
        if has_adapter:
            with quiet():
                self.model = PeftModel.from_pretrained(self.model, f"{folder}/adapter")
            self.has_adapter = True
            keep_differentiable(self.model)

    def _source(self, folder: str | None) -> str:
        """Where the weights are: saved with the module, made in code, or by name."""
        saved = Path(folder or "", "weights")
        if folder and saved.is_dir():
            return str(saved)
        if self.name in TINY:
            return str(tiny_folder(self.name, ROOT / ".cache"))
        return self.name

    @property
    def max_seq_length(self) -> int:
        """Longest text in tokens, template included; never above the model's own."""
        return self._longest

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        limit = length_limit(self.model.config, self.tokenizer)
        if value > limit:
            raise LabError(
                f"a length of {value} tokens is over this model's {limit}: set "
                f"max_length to {limit} or less"
            )
        self._longest = value

    def _load(self, source: str, device: str):
        config = load_pretrained(AutoConfig, source)
        without_dropout(config)
        config.use_cache = False  # nothing is generated
        extra = {"add_pooling_layer": False} if config.model_type == "bert" else {}
        return load_pretrained(
            AutoModel,
            source,
            config=config,
            attn_implementation=TAPPED,
            dtype=torch.bfloat16 if "cuda" in device else torch.float32,
            device_map={"": device},
            quantization_config=quantization_config(self.quantization, self.compute),
            **extra,
        )

    def add_lora(self, r: int, alpha: int, dropout: float, seed: int) -> None:
        """Trainable LoRA on every linear layer, reproducibly initialised."""
        config = LoraConfig(
            r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules="all-linear"
        )
        with quiet(), torch.random.fork_rng():
            torch.manual_seed(seed)
            self.model = get_peft_model(self.model, config, autocast_adapter_dtype=True)
        self.has_adapter = True
        keep_differentiable(self.model)

    # -- text to tokens

    def preprocess(self, inputs, prompt: str | None = None, **kwargs) -> dict[str, Any]:
        """Tokens of `inputs` (texts), written in the module's text format.

        `prompt` is the instruction. Adds `pooling_mask`: which tokens may be pooled.
        """
        key = (self.text_format, prompt or "")
        if key not in self._pieces:
            self._pieces[key] = Pieces(self.tokenizer, *key)
        return tokenize(
            [text.strip() for text in inputs],
            self.tokenizer,
            self._pieces[key],
            self.pooled_tokens,
            self.max_seq_length,
        )

    # -- tokens to vectors

    def forward(self, features: dict[str, Any], **kwargs) -> dict[str, Any]:
        mask = features["attention_mask"]
        autocast = torch.autocast(
            mask.device.type,
            dtype=torch.bfloat16,
            enabled=self.compute == torch.bfloat16,
        )
        listen = (
            attention_tap(mask, self._last[0], self.transform)
            if self.tap
            else contextlib.nullcontext()
        )
        with listen as tap, autocast:
            output = self.model(input_ids=features["input_ids"], attention_mask=mask)
        features["token_embeddings"] = output.last_hidden_state
        if self.tap:
            features["received_attention"] = tap.weights(
                mask, gradient=self.tap_gradient
            )
        return features

    def save(self, output_path: str, *args, **kwargs) -> None:
        """Settings, tokenizer and adapters; the weights only where no name has them."""
        self.save_config(output_path)
        self.tokenizer.save_pretrained(output_path)
        if self.has_adapter:
            for adapter in self.model.peft_config.values():  # a name, not a path here
                adapter.base_model_name_or_path = self.name
            self.model.save_pretrained(
                f"{output_path}/adapter", save_embedding_layers=False
            )
            Path(output_path, "adapter", "README.md").unlink(missing_ok=True)
        weights = Path(output_path, "weights")
        if self.own_weights:
            self.model.save_pretrained(weights)
            self.tokenizer.save_pretrained(weights)
        elif self.name in TINY:
            shutil.copytree(self._source(None), weights, dirs_exist_ok=True)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs):
        """The module from a folder that `save` wrote (a local one).

        `model_kwargs={"device": "cuda"}` loads the weights there at once.
        """
        folder = Path(model_name_or_path, subfolder)
        config = json.loads((folder / cls.config_file_name).read_text())
        device = (kwargs.get("model_kwargs") or {}).get("device") or "cpu"
        return cls(**config, folder=str(folder), device=str(device))


def dense_state(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights of a backbone in float32, adapters added, under the plain names.

    4-bit weights are the numbers that they stand for, so that nothing is rounded again.
    """
    base = model.get_base_model() if isinstance(model, PeftModel) else model
    state = {}
    for name, module in base.named_modules():
        if "lora_" in name or name.endswith("base_layer"):
            continue
        adapted = isinstance(module, BaseTunerLayer)
        inner = module.get_base_layer() if adapted else module
        for key, value in inner.named_parameters(recurse=False):
            if hasattr(value, "quant_state"):
                value = dequantize_4bit(value.data, value.quant_state)
            value = value.detach().float()
            if adapted and key == "weight":
                for adapter in module.active_adapters:
                    value = value + module.get_delta_weight(adapter).detach()
            state[f"{name}.{key}"] = value.cpu()
    return state
