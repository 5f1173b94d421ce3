"""Embed, with a cache by content."""

from __future__ import annotations

import contextlib
import hashlib
import json
import sqlite3
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from sentence_transformers import SentenceTransformer

from nbutils.core.fields import Settings
from nbutils.core.settings import ROOT
from nbutils.encoder.models import compute_dtype

VECTORS = ROOT / ".cache" / "vectors"


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
    dtype = compute_dtype(settings.encoder.compute_dtype, model.device.type)
    return folder / f"{fingerprint(model)}-{str(dtype).split('.')[1]}.sqlite"


def _encode(model, texts, settings: Settings, prompt: str | None) -> np.ndarray:
    device = model.device.type
    dtype = compute_dtype(settings.encoder.compute_dtype, device)
    autocast = torch.autocast(device, torch.bfloat16, enabled=dtype == torch.bfloat16)
    with autocast, warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        vectors = model.encode(
            list(texts),
            prompt=prompt,
            batch_size=settings.encoder.encode_batch,
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
