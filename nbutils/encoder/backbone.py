"""The backbone of the student: a transformer in 4 bits with LoRA, on any device.

`Backbone` is the first module of a SentenceTransformer, made from the settings of the
section `encoder`; those that make up its vectors are saved with it.
"""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from sentence_transformers.base.modules import InputModule
from transformers import AutoConfig, AutoModel, AutoTokenizer, BitsAndBytesConfig

from nbutils.core.errors import LabError
from nbutils.core.sections import Encoder
from nbutils.encoder import models
from nbutils.encoder.attention import TAPPED, attention_tap, last_attention
from nbutils.encoder.templates import Pieces, tokenize

NOT_SAVED = {
    "reference", "encode_batch", "gradient_checkpointing",
    "lora_r", "lora_alpha", "lora_dropout",
}  # fmt: skip
"""Settings that are no part of a backbone, or stand in its adapters' own file."""


def quantization_config(name: str, dtype: torch.dtype) -> BitsAndBytesConfig | None:
    """NF4 with double quantization (QLoRA), or None."""
    if name == "none":
        return None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=name,
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

    `section` says what it is made of (LabError for a `max_length` that the model does
    not have). `folder` is one that `save` wrote.

    `forward` reads `input_ids` and `attention_mask` (batch, tokens) and writes
    `token_embeddings` (batch, tokens, dim) and, for ATA pooling, `received_attention`
    (batch, tokens). Source: QLoRA (4 bits), LLM2Vec (attention, template).
    """

    config_file_name = "backbone.json"
    config_key_renames = {  # noqa: RUF012
        "name": "student",
        "dtype": "compute_dtype",
        "max_seq_length": "max_length",
        "tap_gradient": "ata_gradient",
        "transform": "ata_transform",
    }
    save_in_root = False

    def __init__(
        self, section: Encoder, device: str = "cpu", folder: Path | None = None
    ):
        super().__init__()
        self.section = section
        self.compute = models.compute_dtype(section.compute_dtype, device)
        source = section.student
        if folder and (folder / "weights").is_dir():
            source = str(folder / "weights")
        elif source in models.TINY:
            source = str(models.tiny_folder(source))
        self._source = source
        self.tokenizer = models.load_pretrained(AutoTokenizer.from_pretrained, source)
        self.tokenizer.padding_side = "right"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.weights_sha256 = models.weights_sha256(section.student)
        self.model = self._load(source, device)
        self.max_seq_length = section.max_length  # checked against the model's
        if section.bidirectional:
            make_bidirectional(self.model)
        self.model.requires_grad_(False)
        self._last = (last_attention(self.model),)  # in a tuple: no submodule
        if folder and (folder / "adapter").is_dir():
            with models.quiet():
                self.model = PeftModel.from_pretrained(self.model, folder / "adapter")
        keep_differentiable(self.model)

    def _load(self, source: str, device: str):
        config = models.load_pretrained(AutoConfig.from_pretrained, source)
        without_dropout(config)
        config.use_cache = False  # nothing is generated
        kept, there = self.section.student_layers, config.num_hidden_layers
        if kept > there:
            raise LabError(
                f"student_layers is {kept} and {self.section.student} has {there} "
                "layers: keep as many or fewer, or 0 for all"
            )
        config.num_hidden_layers = kept or there
        bits = quantization_config(self.section.quantization, self.compute)
        return models.load_pretrained(
            AutoModel.from_pretrained,
            source,
            config=config,
            attn_implementation=TAPPED,
            dtype=torch.bfloat16 if "cuda" in device else torch.float32,
            device_map={"": device},
            quantization_config=bits,
            **models.without_pooler(config),
        )

    @property
    def max_seq_length(self) -> int:
        """Longest text in tokens, template included; never above the model's own."""
        return self.section.max_length

    @max_seq_length.setter
    def max_seq_length(self, value: int) -> None:
        places = getattr(self.model.config, "max_position_embeddings", None) or value
        limit = min(places, self.tokenizer.model_max_length)
        if value > limit:
            raise LabError(
                f"a length of {value} tokens is over this model's {limit}: set "
                f"max_length to {limit} or less"
            )
        self.section = self.section.model_copy(update={"max_length": value})

    def add_lora(self, seed: int) -> None:
        """Trainable LoRA on every linear layer, reproducibly initialised."""
        config = LoraConfig(
            r=self.section.lora_r,
            lora_alpha=self.section.lora_alpha,
            lora_dropout=self.section.lora_dropout,
            target_modules="all-linear",
        )
        with models.quiet(), torch.random.fork_rng():
            torch.manual_seed(seed)
            self.model = get_peft_model(self.model, config)
        keep_differentiable(self.model)

    def preprocess(self, inputs, prompt: str | None = None, **kwargs) -> dict[str, Any]:
        """Tokens of `inputs` (texts), written in the module's text format.

        `prompt` is the instruction. Adds `pooling_mask`: which tokens may be pooled.
        """
        pieces = Pieces(self.tokenizer, self.section.text_format, prompt or "")
        texts = [text.strip() for text in inputs]
        rule, longest = self.section.pooled_tokens, self.max_seq_length
        return tokenize(texts, self.tokenizer, pieces, rule, longest)

    def forward(self, features: dict[str, Any], **kwargs) -> dict[str, Any]:
        mask, ata = features["attention_mask"], self.section.pooling == "ata"
        low = self.compute == torch.bfloat16
        autocast = torch.autocast(mask.device.type, torch.bfloat16, enabled=low)
        listen = attention_tap(mask, self._last[0], self.section.ata_transform)
        with autocast, listen if ata else contextlib.nullcontext() as tap:
            output = self.model(input_ids=features["input_ids"], attention_mask=mask)
        features["token_embeddings"] = output.last_hidden_state
        if ata:
            received = tap.weights(mask, gradient=self.section.ata_gradient)
            features["received_attention"] = received
        return features

    def get_config_dict(self) -> dict[str, Any]:
        """What is saved: the settings by name, and which weights they are of."""
        own = self.section.model_dump(exclude=NOT_SAVED)
        return {**own, "weights_sha256": self.weights_sha256}

    def save(self, output_path: str, *args, **kwargs) -> None:
        """Settings, tokenizer and adapters; the weights only where no name has them."""
        folder, name = Path(output_path), self.section.student
        self.save_config(output_path)
        self.tokenizer.save_pretrained(folder)
        if isinstance(self.model, PeftModel):
            for adapter in self.model.peft_config.values():  # a name, not a path here
                adapter.base_model_name_or_path = name
            self.model.save_pretrained(folder / "adapter", save_embedding_layers=False)
            (folder / "adapter" / "README.md").unlink(missing_ok=True)
        if self._source != name:  # made in code, or of a folder that holds its weights
            shutil.copytree(self._source, folder / "weights", dirs_exist_ok=True)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs):
        """The module from a folder that `save` wrote (a local one).

        `model_kwargs={"device": "cuda"}` loads the weights there at once.
        """
        folder = Path(model_name_or_path, subfolder)
        saved = cls.load_config(str(folder))
        if not saved.get("tap", True):  # how earlier versions wrote any other pooling
            saved["pooling"] = "mean"
        known = {k: v for k, v in saved.items() if k in Encoder.model_fields}
        # before there was a choice, all layers were kept
        known = {"student_layers": 0, **known}
        device = (kwargs.get("model_kwargs") or {}).get("device") or "cpu"
        module = cls(Encoder(**known), str(device), folder)
        if saved.get("weights_sha256", "") not in ("", module.weights_sha256):
            raise LabError(
                f"the student in {folder} was trained on other weights of "
                f"{module.section.student} than are here: fetch those, or train anew"
            )
        return module
