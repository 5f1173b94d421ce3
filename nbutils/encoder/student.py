"""Encoders as SentenceTransformers: made, saved, loaded, identified, and run.

The student is backbone, pooling and normalisation; teachers and measuring encoders are
any SentenceTransformer. Vectors are kept on disk by content: a changed weight, text
format or length is never served old vectors.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize

from nbutils.core.errors import LabError
from nbutils.core.fields import Settings
from nbutils.core.files import atomic
from nbutils.encoder.backbone import Backbone, dense_state
from nbutils.encoder.models import TINY, device_of, load_pretrained
from nbutils.encoder.pooling import TokenPooling


def build_student(
    settings: Settings, kind: Callable[..., Backbone] = Backbone
) -> SentenceTransformer:
    """A fresh student: 4-bit backbone, LoRA adapters, pooling, unit length.

    Everything follows the settings; only the adapters are trainable. Before training
    the adapters change nothing. `kind` makes the backbone of the settings' arguments.
    """
    device = device_of(settings)
    backbone = kind(
        settings.encoder.student,
        quantization=settings.encoder.quantization,
        dtype=settings.encoder.compute_dtype,
        bidirectional=settings.encoder.bidirectional,
        text_format=settings.encoder.text_format,
        pooled_tokens=settings.encoder.pooled_tokens,
        max_seq_length=settings.encoder.max_length,
        tap=settings.encoder.pooling == "ata",
        tap_gradient=settings.encoder.ata_gradient,
        transform=settings.encoder.ata_transform,
        device=device,
    )
    backbone.add_lora(
        settings.encoder.lora_r,
        settings.encoder.lora_alpha,
        settings.encoder.lora_dropout,
        settings.seed,
    )
    if settings.encoder.gradient_checkpointing:
        backbone.model.gradient_checkpointing_enable({"use_reentrant": False})
    dimension = backbone.model.config.hidden_size
    modules = [backbone, TokenPooling(settings.encoder.pooling, dimension), Normalize()]
    return SentenceTransformer(modules=modules, device=device)


def save_student(
    model: SentenceTransformer,
    folder: str | Path,
    beside: Callable[[Path], None] | None = None,
) -> Path:
    """Save to a folder that `load_student` opens; whole or not at all.

    `beside` is called with the folder before it is put in its place, to write there
    what belongs to the weights.
    """
    with atomic(folder) as made:
        model.save(str(made), create_model_card=False)
        if beside:
            beside(made)
    return Path(folder)


def merge_student(model: SentenceTransformer) -> SentenceTransformer:
    """The same encoder with its adapters merged into float32 weights of its own.

    Its folder, once saved, needs no other model. The vectors are the same to 1e-5 with
    products in float32: the 4-bit weights are kept as the numbers they stand for, and
    are not rounded to 4 bits again.
    """
    student = model[0]
    plain = {"quantization": "none", "has_adapter": False, "own_weights": True}
    backbone = Backbone(**{**student.get_config_dict(), **plain})
    _, unknown = backbone.model.load_state_dict(dense_state(student.model), False)
    if unknown:
        raise LabError(
            f"weights {unknown[:3]} cannot be merged: save the adapter alone"
        )
    merged = SentenceTransformer(
        modules=[backbone, *list(model)[1:]],
        device=str(model.device),
        prompts=model.prompts,
        default_prompt_name=model.default_prompt_name,
        truncate_dim=model.truncate_dim,
    )
    return merged.eval()


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
        backbone = model[0]
        found = {
            "student": backbone.name,
            "quantization": backbone.quantization,
            "bidirectional": backbone.bidirectional,
            "text_format": backbone.text_format,
            "pooled_tokens": backbone.pooled_tokens,
            "ata_transform": backbone.transform,
            "max_length": backbone.max_seq_length,
            "pooling": model[1].mode,
        }
        for name, value in found.items():
            asked = getattr(settings.encoder, name)
            if value != asked:
                raise LabError(
                    f"the student in {folder} was trained with {name}={value!r}, the "
                    f"settings say {asked!r}: run notebook 05 with "
                    "these settings first"
                )
    return model


def load_encoder(settings: Settings, name: str | None = None) -> SentenceTransformer:
    """An encoder as its authors made it, by hub name or folder (None: the setting).

    Runs on the settings' device with their length limit. LabError where the model
    cannot be found.
    """
    name = settings.encoder.reference if name is None else name
    device = device_of(settings)
    if name in TINY:
        modules = [
            Backbone(name, quantization="none", tap=False, device=device),
            TokenPooling("mean", 64),
            Normalize(),
        ]
        model = SentenceTransformer(modules=modules, device=device)
    else:
        model = load_pretrained(_Loader(device), name)
    model.max_seq_length = min(
        settings.encoder.max_length, model.max_seq_length or 10**6
    )
    return model


class _Loader:
    """SentenceTransformer behind `from_pretrained`, so that one check serves all."""

    def __init__(self, device: str):
        self.device = device

    def from_pretrained(self, name: str) -> SentenceTransformer:
        trusted = _is_ours(Path(name))
        return SentenceTransformer(name, device=self.device, trust_remote_code=trusted)


def _is_ours(folder: Path) -> bool:
    """Whether a saved encoder's own modules are all this package's."""
    path = folder / "modules.json"
    if not path.is_file():
        return False
    types = [module["type"] for module in json.loads(path.read_text())]
    known = all(t.startswith(("nbutils.", "sentence_transformers.")) for t in types)
    return known and any(t.startswith("nbutils.") for t in types)
