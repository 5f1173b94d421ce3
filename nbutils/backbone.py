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
from peft import LoraConfig, PeftModel, get_peft_model
from sentence_transformers.base.modules import InputModule
from transformers import AutoConfig, AutoModel, AutoTokenizer, BitsAndBytesConfig

from nbutils.errors import LabError
from nbutils.models import TINY, compute_dtype, load_pretrained, quiet, tiny_folder
from nbutils.pooling import TAPPED, attention_tap, tapped_weights
from nbutils.settings import ROOT

MULTIPLE = 8
"""Batches are padded to lengths of this multiple: fewer shapes, fewer kernels made."""


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
    """

    config_keys = [  # noqa: RUF012
        "name",
        "quantization",
        "dtype",
        "bidirectional",
        "text_format",
        "max_seq_length",
        "tap",
        "tap_gradient",
        "has_adapter",
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
        max_seq_length: int = 160,
        tap: bool = True,
        tap_gradient: bool = False,
        device: str = "cpu",
        has_adapter: bool = False,
        folder: str | None = None,
    ):
        super().__init__()
        self.name = name
        self.quantization = quantization
        self.dtype = dtype
        self.bidirectional = bidirectional
        self.text_format = text_format
        self.max_seq_length = max_seq_length
        self.tap = tap
        self.tap_gradient = tap_gradient
        self.has_adapter = False
        self.compute = compute_dtype(dtype, device)
        source = self._source(folder)
        self.tokenizer = load_pretrained(AutoTokenizer, source)
        self.tokenizer.padding_side = "right"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.model = self._load(source, device)
        if bidirectional:
            make_bidirectional(self.model)
        keep_differentiable(self.model)
        self.model.requires_grad_(False)
        if has_adapter:
            with quiet():
                self.model = PeftModel.from_pretrained(self.model, f"{folder}/adapter")
            self.has_adapter = True
            keep_differentiable(self.model)

    def _source(self, folder: str | None) -> str:
        """Where the weights are: saved with the module (tiny models), or by name."""
        if self.name not in TINY:
            return self.name
        saved = Path(folder or "", "weights")
        if folder and saved.is_dir():
            return str(saved)
        return str(tiny_folder(self.name, ROOT / ".cache"))

    def _load(self, source: str, device: str):
        config = load_pretrained(AutoConfig, source)
        without_dropout(config)
        extra = {"add_pooling_layer": False} if config.model_type == "bert" else {}
        return load_pretrained(
            AutoModel,
            source,
            config=config,
            attn_implementation=TAPPED,
            dtype=torch.bfloat16 if device == "cuda" else torch.float32,
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
        texts = [text.strip() for text in inputs]
        if self.text_format == "inst":
            return self._template(texts, prompt or "")
        if prompt and self.text_format == "e5":
            texts = [f"Instruct: {prompt}\nQuery: {text}" for text in texts]
        elif prompt:
            texts = [prompt + text for text in texts]
        batch = self.tokenizer(
            texts,
            padding=True,
            truncation=True,
            max_length=self.max_seq_length,
            pad_to_multiple_of=MULTIPLE,
            return_tensors="pt",
            return_token_type_ids=False,
        )
        return {**batch, "pooling_mask": batch["attention_mask"]}

    def _template(self, texts: list[str], instruction: str) -> dict[str, Any]:
        """`[INST] {instruction}; {text} [/INST]` from separately tokenized pieces.

        The pooling mask leaves out everything before the text and keeps the closing
        token (LLM2Vec's rule). Pieces are joined as ids, so a long text is cut
        without losing the template's end.
        """
        head = f"[INST] {instruction}; " if instruction else "[INST] "
        tokenizer = self.tokenizer
        before = tokenizer(head)["input_ids"]
        after = tokenizer(" [/INST]", add_special_tokens=False)["input_ids"]
        room = self.max_seq_length - len(before) - len(after)
        if room < 1:
            raise LabError(
                f"the instruction alone fills {len(before)} of {self.max_seq_length} "
                "tokens: shorten it or raise max_length"
            )
        bodies = tokenizer(
            texts, add_special_tokens=False, truncation=True, max_length=room
        )["input_ids"]
        rows = [before + body + after for body in bodies]
        batch = tokenizer.pad(
            {"input_ids": rows}, pad_to_multiple_of=MULTIPLE, return_tensors="pt"
        )
        mask = batch["attention_mask"].clone()
        mask[:, : len(before)] = 0
        return {
            "input_ids": batch["input_ids"],
            "attention_mask": batch["attention_mask"],
            "pooling_mask": mask,
        }

    # -- tokens to vectors

    def forward(self, features: dict[str, Any], **kwargs) -> dict[str, Any]:
        mask = features["attention_mask"]
        autocast = torch.autocast(
            mask.device.type,
            dtype=torch.bfloat16,
            enabled=self.compute == torch.bfloat16,
        )
        listen = attention_tap() if self.tap else contextlib.nullcontext()
        with listen as tap, autocast:
            output = self.model(input_ids=features["input_ids"], attention_mask=mask)
        features["token_embeddings"] = output.last_hidden_state
        if self.tap:
            features["received_attention"] = tapped_weights(
                tap, mask, gradient=self.tap_gradient
            )
        return features

    def save(self, output_path: str, *args, **kwargs) -> None:
        """Settings, tokenizer and adapters; the weights only of a tiny random model."""
        self.save_config(output_path)
        self.tokenizer.save_pretrained(output_path)
        if self.has_adapter:
            for adapter in self.model.peft_config.values():  # a name, not a path here
                adapter.base_model_name_or_path = self.name
            self.model.save_pretrained(
                f"{output_path}/adapter", save_embedding_layers=False
            )
            Path(output_path, "adapter", "README.md").unlink(missing_ok=True)
        if self.name in TINY:
            shutil.copytree(
                self._source(None), f"{output_path}/weights", dirs_exist_ok=True
            )

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs):
        """The module from a folder that `save` wrote (a local one)."""
        folder = Path(model_name_or_path, subfolder)
        config = json.loads((folder / cls.config_file_name).read_text())
        device = kwargs.get("device") or "cpu"
        return cls(**config, folder=str(folder), device=str(device))
