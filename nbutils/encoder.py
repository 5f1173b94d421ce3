"""Encoders as SentenceTransformers: made, saved, loaded, identified, and run.

The student is backbone, pooling and normalisation; teachers and measuring encoders are
any SentenceTransformer. Vectors are kept on disk by content: a changed weight, text
format or length is never served old vectors.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize

from nbutils.backbone import Backbone, dense_state
from nbutils.errors import LabError
from nbutils.models import TINY, compute_dtype, device_of, load_pretrained
from nbutils.pooling import TokenPooling
from nbutils.records import atomic_folder
from nbutils.settings import ROOT, Settings

VECTORS = ROOT / ".cache" / "vectors"


def build_student(
    settings: Settings, kind: Callable[..., Backbone] = Backbone
) -> SentenceTransformer:
    """A fresh student: 4-bit backbone, LoRA adapters, pooling, unit length.

    Everything follows the settings; only the adapters are trainable. Before training
    the adapters change nothing. `kind` makes the backbone of the settings' arguments.
    """
    device = device_of(settings)
    backbone = kind(
        settings.student,
        quantization=settings.quantization,
        dtype=settings.compute_dtype,
        bidirectional=settings.bidirectional,
        text_format=settings.text_format,
        pooled_tokens=settings.pooled_tokens,
        max_seq_length=settings.max_length,
        tap=settings.pooling == "ata",
        tap_gradient=settings.ata_gradient,
        transform=settings.ata_transform,
        device=device,
    )
    backbone.add_lora(
        settings.lora_r, settings.lora_alpha, settings.lora_dropout, settings.seed
    )
    if settings.gradient_checkpointing:
        backbone.model.gradient_checkpointing_enable({"use_reentrant": False})
    dimension = backbone.model.config.hidden_size
    modules = [backbone, TokenPooling(settings.pooling, dimension), Normalize()]
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
    with atomic_folder(folder) as made:
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
            if value != getattr(settings, name):
                raise LabError(
                    f"the student in {folder} was trained with {name}={value!r}, the "
                    f"settings say {getattr(settings, name)!r}: run notebook 05 with "
                    "these settings first"
                )
    return model


def load_encoder(settings: Settings, name: str | None = None) -> SentenceTransformer:
    """An encoder as its authors made it, by hub name or folder (None: the setting).

    Runs on the settings' device with their length limit. LabError where the model
    cannot be found.
    """
    name = settings.encoder if name is None else name
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
    model.max_seq_length = min(settings.max_length, model.max_seq_length or 10**6)
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


def fingerprint(model: SentenceTransformer) -> str:
    """Sixteen hex digits that change with anything that changes a vector.

    Covers every weight (4-bit codes and adapters too), the modules' settings, the
    adapters' scale, the tokenizer, stored prompts and the length limit.
    """
    digest = hashlib.sha256()
    for module in model:
        settings = getattr(module, "get_config_dict", dict)()
        digest.update(f"{type(module).__name__}{settings}".encode())
    adapters = getattr(getattr(model[0], "model", None), "peft_config", {})
    scales = {k: (a.r, a.lora_alpha) for k, a in adapters.items()}
    prompts = (model.prompts, model.default_prompt_name)
    digest.update(f"{model.max_seq_length}{prompts}{scales}".encode())
    tokenizer = json.loads(model.tokenizer.backend_tokenizer.to_str())
    for state in ("padding", "truncation"):  # these are of the latest call
        tokenizer.pop(state, None)
    digest.update(json.dumps(tokenizer, sort_keys=True).encode())
    for name, tensor in sorted(model.state_dict().items()):
        if isinstance(tensor, torch.Tensor):
            digest.update(name.encode())
            bytes_ = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(bytes_.numpy())
    return digest.hexdigest()[:16]


def embed(
    model: SentenceTransformer,
    texts: Sequence[str],
    settings: Settings,
    prompt: str | None = None,
    *,
    cache: Path | str | None = "default",
) -> np.ndarray:
    """Unit vectors of `texts`, float32 (texts, dimension), in their order.

    `prompt` is the instruction. Equal texts are encoded once; vectors already in
    `cache` (a folder; None: no cache) under the model's fingerprint and the dtype of
    its products are read instead.
    """
    keys = [_key(text, prompt) for text in texts]
    wanted = dict(zip(keys, texts, strict=True))
    folder = VECTORS if cache == "default" else cache
    path = _vector_file(Path(folder), model, settings) if folder else None
    known = _read_vectors(path, wanted) if path else {}
    missing = [key for key in wanted if key not in known]
    if missing:
        fresh = _encode(model, [wanted[key] for key in missing], settings, prompt)
        known.update(zip(missing, fresh, strict=True))
        if path:
            _write_vectors(path, missing, fresh)
    width = model.get_embedding_dimension()
    rows = [known[key] for key in keys]
    return np.stack(rows) if rows else np.zeros((0, width), np.float32)


def kept(path: Path, texts: Sequence[str], prompt: str, make) -> np.ndarray:
    """Vectors of `texts`, read from `path` or made; each batch is kept as it comes.

    make: texts to an iterator of arrays, in their order. Nothing paid for is lost.
    """
    keys = [_key(text, prompt) for text in texts]
    wanted = dict(zip(keys, texts, strict=True))
    known = _read_vectors(path, wanted)
    missing = [key for key in wanted if key not in known]
    done = 0
    for batch in make([prompt + wanted[key] for key in missing]) if missing else ():
        own = missing[done : done + len(batch)]
        _write_vectors(path, own, batch)
        known.update(zip(own, batch, strict=True))
        done += len(batch)
    return np.stack([known[key] for key in keys])


def _vector_file(folder: Path, model, settings: Settings) -> Path:
    dtype = compute_dtype(settings.compute_dtype, model.device.type)
    return folder / f"{fingerprint(model)}-{str(dtype).split('.')[1]}.sqlite"


def _encode(model, texts, settings: Settings, prompt: str | None) -> np.ndarray:
    device = model.device.type
    dtype = compute_dtype(settings.compute_dtype, device)
    autocast = torch.autocast(device, torch.bfloat16, enabled=dtype == torch.bfloat16)
    with autocast, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        vectors = model.encode(
            list(texts),
            prompt=prompt,
            batch_size=settings.encode_batch,
            convert_to_tensor=True,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
    vectors = torch.nn.functional.normalize(vectors.float(), dim=-1)
    return vectors.cpu().numpy()


def _key(text: str, prompt: str | None) -> bytes:
    return hashlib.sha256(f"{prompt or ''}\0{text}".encode()).digest()


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(path, timeout=60)
    with contextlib.suppress(sqlite3.OperationalError):  # another process sets it now
        connection.execute("PRAGMA journal_mode=WAL")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, value BLOB)"
    )
    return connection


def _read_vectors(path: Path, wanted) -> dict[bytes, np.ndarray]:
    """Vectors by key; asked for by key, so that a large file costs no more."""
    if not path.is_file():
        return {}
    keys, found = list(wanted), {}
    try:
        with contextlib.closing(_open(path)) as connection:
            for start in range(0, len(keys), 500):
                part = keys[start : start + 500]
                marks = ",".join("?" * len(part))
                query = f"SELECT key, value FROM vectors WHERE key IN ({marks})"
                found.update(connection.execute(query, part))
    except sqlite3.OperationalError:
        raise  # locked, or the disk's fault: the file itself is whole
    except sqlite3.DatabaseError:
        path.unlink()  # damaged: a cache can be made again
        return {}
    return {key: np.frombuffer(value, np.float32) for key, value in found.items()}


def _write_vectors(path: Path, keys: list[bytes], vectors: np.ndarray) -> None:
    connection = _open(path)
    with connection:
        connection.executemany(
            "INSERT OR IGNORE INTO vectors VALUES (?, ?)",
            [(k, v.tobytes()) for k, v in zip(keys, vectors, strict=True)],
        )
    connection.close()
