"""The backbone of the student: a transformer in 4 bits with LoRA, on any device.

`Backbone` is the first module of a SentenceTransformer, made from the settings of the
section `encoder`; those that make up its vectors are saved with it.
"""

import contextlib
import shutil
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from peft.tuners.tuners_utils import cast_adapter_dtype
from peft.utils import get_peft_model_state_dict
from safetensors.torch import save_file
from sentence_transformers.base.modules import InputModule
from transformers import AutoTokenizer

from nbutils.core.errors import LabError
from nbutils.core.sections import Encoder
from nbutils.encoder import models
from nbutils.encoder.attention import TAPPED, AttentionTap, attention_layers
from nbutils.encoder.templates import check_texts, tokenize
from nbutils.encoder.transformer import load_transformer, refused

NOT_SAVED = {
    "reference", "encode_batch", "gradient_checkpointing",
    "lora_r", "lora_alpha", "lora_dropout",
}  # fmt: skip
"""Settings that are no part of a backbone, or stand in its adapters' own file."""

FIRST = "default"
"""The name of the adapter that is trained; others lie in folders of their names."""


class Backbone(InputModule):
    """A transformer, its tokenizer, its text format and its adapters.

    `section` says what it is made of (LabError where that cannot be); `folder` is one
    that `save` wrote. `forward` reads `input_ids` and `attention_mask` (batch, tokens)
    and writes `token_embeddings` (batch, tokens, dim) and, for ATA pooling,
    `received_attention` (batch, tokens). Source: QLoRA (4 bits), LLM2Vec.
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
        self.section, name = section, section.student
        self.compute = models.compute_dtype(section.compute_dtype, device)
        self._own_weights: Path | None = None  # which `save` writes too
        if folder and (folder / "weights").is_dir():
            self._own_weights = folder / "weights"
        elif name in models.TINY:
            self._own_weights = models.tiny_folder(name)
        source = str(self._own_weights or name)
        kinds = {kind.rpartition(".")[2] for kind in models.module_types(source)}
        if lost := sorted(kinds - {"Transformer", "Pooling", "Normalize"}):
            raise refused(name, f"its {', '.join(lost)} would be lost")
        self.tokenizer = models.load_pretrained(AutoTokenizer.from_pretrained, source)
        if not self.tokenizer.is_fast:
            raise refused(
                name, "its tokenizer does not say where a token's text stands"
            )
        self.tokenizer.padding_side = "right"
        if self.tokenizer.pad_token is None:
            self.tokenizer.pad_token = self.tokenizer.eos_token
        self.weights_sha256 = models.weights_sha256(name)
        self.model = load_transformer(section, source, device, self.compute)
        self.tapped = self.model.config._attn_implementation == TAPPED
        self.max_seq_length = section.max_length  # checked against the model's
        self._last = attention_layers(self.model)[-1:]  # in a list: no submodule
        if folder and (folder / "adapter").is_dir():
            self._load_adapters(folder / "adapter")

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
            r=self.section.lora_r, lora_alpha=self.section.lora_alpha,
            lora_dropout=self.section.lora_dropout, target_modules="all-linear",
        )  # fmt: skip
        with models.quiet(), torch.random.fork_rng():
            torch.manual_seed(seed)
            try:
                self.model.add_adapter(config, FIRST)
            except ValueError as error:  # an architecture that LoRA does not fit
                raise refused(self.section.student, str(error)) from None
        cast_adapter_dtype(self.model, FIRST)

    def _load_adapters(self, folder: Path) -> None:
        """Put every adapter that `save` wrote in place, trainable."""
        others = [path.parent for path in folder.glob("*/adapter_config.json")]
        with models.quiet():
            for name, own in {FIRST: folder, **{o.name: o for o in others}}.items():
                self.model.load_adapter(str(own), name, is_trainable=True)
                cast_adapter_dtype(self.model, name)

    def preprocess(self, inputs, prompt: str | None = None, **kwargs) -> dict[str, Any]:
        """Tokens of `inputs` (texts), written in the module's text format.

        `prompt` is the instruction. Adds `pooling_mask`: which tokens may be pooled.
        """
        check_texts(inputs)
        section, texts = self.section, [text.strip() for text in inputs]
        how = section.pooled_tokens, section.max_length
        return tokenize(texts, self.tokenizer, section.text_format, prompt or "", *how)

    def forward(self, features: dict[str, Any], **kwargs) -> dict[str, Any]:
        mask, ata = features["attention_mask"], self.section.pooling == "ata"
        half = self.model.dtype == torch.float16  # by the user's `.half()`
        low = self.compute == torch.bfloat16 and not half
        autocast = torch.autocast(mask.device.type, torch.bfloat16, enabled=low)
        tap = AttentionTap(mask, *self._last, transform=self.section.ata_transform)
        with autocast, tap if ata else contextlib.nullcontext() as tap:
            output = self.model(input_ids=features["input_ids"], attention_mask=mask)
        features["token_embeddings"] = output.last_hidden_state
        if ata:
            features["received_attention"] = tap.weights(self.section.ata_gradient)
        return features

    def on_model_ready(self, model) -> None:
        """Let the model card name what the student was made of."""
        if "/" in self.section.student and not Path(self.section.student).exists():
            model.model_card_data.base_model = self.section.student

    def get_config_dict(self) -> dict[str, Any]:
        """What is saved: the settings by name, and which weights they are of."""
        own = self.section.model_dump(exclude=NOT_SAVED)
        if Path(own["student"]).is_dir():  # opened from wherever
            own["student"] = str(Path(own["student"]).resolve())
        own["weights_sha256"] = self.weights_sha256
        if hasattr(self.model, "peft_config"):
            own["active_adapters"] = self.model.active_adapters()
        return own

    def save(self, output_path: str, *args, **kwargs) -> None:
        """Settings, tokenizer, adapters as peft has them; weights that no name has."""
        folder, name = Path(output_path), self.section.student
        self.save_config(output_path)
        self.tokenizer.save_pretrained(folder)
        for adapter, config in getattr(self.model, "peft_config", {}).items():
            own = folder / "adapter" / (adapter if adapter != FIRST else "")
            config.base_model_name_or_path = name  # a name, not a path here
            config.save_pretrained(own)
            asked = {"adapter_name": adapter, "save_embedding_layers": False}
            state = get_peft_model_state_dict(self.model, **asked)
            state = {f"base_model.model.{k}": v.contiguous() for k, v in state.items()}
            save_file(state, own / "adapter_model.safetensors", {"format": "pt"})
        if self._own_weights:
            shutil.copytree(self._own_weights, folder / "weights", dirs_exist_ok=True)

    @classmethod
    def load(cls, model_name_or_path: str, subfolder: str = "", **kwargs):
        """The module from a folder that `save` wrote, here or on the hub.

        `model_kwargs={"device": "cuda"}` loads the weights there at once; LabError for
        others, because a student's settings stand in its folder, and for a folder
        without them.
        """
        given = {k: v for k, v in kwargs.items() if k == "backend" and v != "torch"}
        for kind in ("model_kwargs", "processor_kwargs", "config_kwargs"):
            given |= kwargs.get(kind) or {}
        device = given.pop("device", None) or "cpu"
        if given:
            raise LabError(
                f"a saved student takes no {', '.join(given)}: load it without, or "
                f"change {cls.config_file_name} in its folder"
            )
        hub = ("token", "cache_folder", "revision", "local_files_only")
        own = {name: kwargs[name] for name in hub if kwargs.get(name) is not None}
        folder = Path(cls.load_dir_path(model_name_or_path, subfolder, **own) or "")
        if not (folder / cls.config_file_name).is_file():
            raise LabError(f"{model_name_or_path} holds no saved student: name another")
        saved = cls.load_config(str(folder))
        if not saved.get("tap", True):  # how earlier versions wrote any other pooling
            saved["pooling"] = "mean"
        known = {"student_layers": 0}  # before there was a choice, all were kept
        known |= {k: v for k, v in saved.items() if k in Encoder.model_fields}
        module = cls(Encoder(**known), str(device), folder)
        if saved.get("weights_sha256", "") not in ("", module.weights_sha256):
            raise LabError(
                f"the student in {folder} was trained on other weights of "
                f"{module.section.student} than are here: fetch those, or train anew"
            )
        if hasattr(module.model, "peft_config"):
            module.model.set_adapter(saved.get("active_adapters", [FIRST]))
        return module
