"""Encoders as SentenceTransformers: made, saved, loaded and unpacked.

The student is backbone, pooling and normalisation; teachers and measuring encoders are
any SentenceTransformer.
"""

import contextlib
import copy
import math
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
from nbutils.core.sections import Encoder
from nbutils.core.settings import Settings
from nbutils.encoder import models
from nbutils.encoder.backbone import NOT_SAVED, Backbone
from nbutils.encoder.models import TINY, device_of, load_pretrained, module_types
from nbutils.encoder.pooling import TokenPooling
from nbutils.encoder.transformer import refused

FREE = NOT_SAVED | {"compute_dtype", "ata_gradient"}
"""Settings in which a run may differ from the student that it loads."""
POOLINGS = {"mean": "mean", "last": "lasttoken", "first": "cls"}
"""Poolings of plain sentence-transformers, and its names of them."""
PLAIN = {
    "pooling": POOLINGS,
    "text_format": ["plain"],
    "pooled_tokens": ["llm2vec", "all"],
}
"""What its modules can do of a student's settings."""


def as_encoder(backbone: Backbone, device: str) -> SentenceTransformer:
    """Backbone, its section's pooling, and unit length."""
    dimension = backbone.model.config.hidden_size
    pooling = TokenPooling(backbone.section.pooling, dimension)
    return SentenceTransformer(modules=[backbone, pooling, Normalize()], device=device)


def build_student(settings: Settings) -> SentenceTransformer:
    """A fresh student: 4-bit backbone, LoRA adapters, pooling, unit length.

    Everything follows the settings; only the adapters are trainable. Before training
    the adapters change nothing.
    """
    device, name = device_of(settings), settings.encoder.student
    if settings.encoder.text_format == "plain" and models.prompts_of(name):
        change = "text_format to one that writes them"
        raise refused(name, "its prompts would be lost", change)
    backbone = Backbone(settings.encoder, device)
    backbone.add_lora(settings.seed)
    if settings.encoder.gradient_checkpointing:
        backbone.model.gradient_checkpointing_enable({"use_reentrant": False})
    return as_encoder(backbone, device)


def check_student(model: SentenceTransformer) -> None:
    """LabError for an encoder that is no student."""
    if not isinstance(model[0], Backbone):
        raise LabError(
            "this encoder is no student: name it in the setting student, and take "
            "build_student"
        )


def check_folder(folder: str | Path) -> None:
    """LabError for a folder of other files, which a student would replace."""
    folder = Path(folder)
    full = folder.is_dir() and any(folder.iterdir())
    if full and not (folder / "modules.json").is_file():
        raise LabError(f"{folder} holds other files: name a new folder")


def save_student(model: SentenceTransformer, folder: str | Path) -> Path:
    """Save to a folder that `load_student` opens; whole or not at all."""
    check_folder(folder)
    with atomic(folder) as made:
        model.save(str(made), create_model_card=False)
    return Path(folder)


def unpack_student(model: SentenceTransformer) -> SentenceTransformer:
    """The same encoder, its 4-bit weights as the numbers that they stand for.

    On a CPU that nearly halves the time of encoding. The vectors are the same to the
    rounding of the products; what is saved of it is what is saved of `model`.
    """
    unpacked = copy.deepcopy(model)
    with models.quiet():
        for module in list(unpacked.modules()):
            if getattr(module, "is_loaded_in_4bit", False):
                module.dequantize(torch.float32)
    return unpacked


def export_student(model: SentenceTransformer, folder: str | Path) -> Path:
    """Save a student as Transformer, Pooling, Normalize, its adapters merged.

    The folder opens without this package and without `trust_remote_code`, in float32;
    vectors of texts (without space around them) are the same. Where prompts are not
    pooled, the library leaves out as many tokens as a prompt has alone, which may be
    one more or less. LabError for what no plain module does: ATA, templates.
    """
    check_folder(folder)
    check_student(model)
    section = model[0].section.model_copy(update={"pooling": model[1].mode})
    for name, able in PLAIN.items():
        if (value := getattr(section, name)) not in able:
            raise LabError(
                f"an export has no module for {name}={value}: open the student with "
                f"trust_remote_code, or train one with {' or '.join(able)}"
            )
    merged = unpack_student(model)[0].model
    for name, layer in list(merged.named_modules()):
        if isinstance(layer, BaseTunerLayer):
            base = layer.get_base_layer()
            for adapter in [] if layer.disable_adapters else layer.active_adapters:
                base.weight.data += layer.get_delta_weight(adapter)
            merged.set_submodule(name, base)
    config = merged.config
    # without padding, SDPA makes a decoder causal whatever its configuration says
    causal = getattr(config, "is_causal", True)
    attention = {} if causal else {"attn_implementation": "eager"}
    config._attn_implementation, pooler = "eager", models.without_pooler(config)
    with models.quiet(), atomic(folder) as made, TemporaryDirectory() as weights:
        whole = AutoModel.from_config(config, dtype=torch.float32, **pooler)
        whole.load_state_dict(merged.state_dict())
        whole.save_pretrained(weights)
        model.tokenizer.save_pretrained(weights)
        longest, prompts = section.max_length, section.pooled_tokens == "all"
        first = Transformer(weights, model_kwargs=attention, max_seq_length=longest)
        pooling = Pooling(config.hidden_size, POOLINGS[section.pooling], prompts)
        modules = [first, pooling, Normalize()]
        plain = SentenceTransformer(modules=modules, prompts=model.prompts)
        plain.default_prompt_name = model.default_prompt_name
        plain.model_card_data.base_model = model.model_card_data.base_model
        plain.save(str(made))
    return Path(folder)


def load_student(
    folder: str | Path, settings: Settings | None = None
) -> SentenceTransformer:
    """A student that `save_student` wrote, on the settings' device.

    With `settings`, LabError where it was trained as another model, format or pooling
    than they say, because scores under them would be of something else.
    """
    folder = Path(folder)
    if not (folder / "modules.json").is_file():
        raise LabError(f"{folder} holds no trained encoder: run notebook 05 first")
    device = device_of(settings) if settings else None
    model = SentenceTransformer(
        str(folder),
        device=device,
        trust_remote_code=True,
        model_kwargs={"device": device},
    )
    if settings:
        section = model[0].section.model_copy(update={"pooling": model[1].mode})
        asked = settings.encoder.model_dump(exclude=FREE)
        if Path(asked["student"]).is_dir():
            asked["student"] = str(Path(asked["student"]).resolve())
        for name, found in section.model_dump(exclude=FREE).items():
            if found != asked[name]:
                raise LabError(
                    f"the student in {folder} was trained with {name}={found!r}, the "
                    f"settings say {asked[name]!r}: run the whole notebook 05 with "
                    "these settings first"
                )
    return model


def load_encoder(settings: Settings, name: str | None = None) -> SentenceTransformer:
    """An encoder as its authors made it, by hub name or folder (None: the setting).

    Runs on the settings' device with their length limit, where it has one. LabError
    where the model cannot be found.
    """
    name = settings.encoder.reference if name is None else name
    device = device_of(settings)
    if name in TINY:
        dtype = settings.encoder.compute_dtype
        plain = {"quantization": "none", "pooling": "mean", "compute_dtype": dtype}
        section = Encoder(student=name, **plain)
        model = as_encoder(Backbone(section, device), device)
    else:
        name = models.local_name(name)
        packages = {kind.split(".")[0] for kind in module_types(name)}
        own = {"nbutils"} <= packages <= {"nbutils", "sentence_transformers"}
        trusted = own and Path(name).is_dir()
        model = load_pretrained(
            SentenceTransformer, name, device=device, trust_remote_code=trusted
        )
    words = getattr(model, "tokenizer", None)
    if getattr(words, "pad_token", "") is None:  # of decoders, as the student has it
        words.pad_token = words.eos_token
    longest = model.max_seq_length or math.inf
    if longest > settings.encoder.max_length:
        with contextlib.suppress(AttributeError):  # a table of words cuts nothing
            model.max_seq_length = settings.encoder.max_length
    return model
