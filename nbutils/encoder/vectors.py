"""Vectors of texts, kept on disk by everything that makes them what they are."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Module
from transformers import PreTrainedModel

from nbutils.core.errors import LabError
from nbutils.core.machine import cache_folder
from nbutils.core.settings import Settings
from nbutils.core.shelf import Damaged, Shelf
from nbutils.encoder.models import compute_dtype, quiet
from nbutils.encoder.templates import check_texts

VECTORS = cache_folder() / "vectors"

UNTELLING = {
    "_name_or_path": None, "transformers_version": None,  # of a configuration
    "padding": None, "truncation": None,  # of a tokenizer: those of the latest call
}  # fmt: skip
"""Entries that change no vector."""


def fingerprint(model: SentenceTransformer) -> str:
    """Sixteen hex digits that change with anything that changes a vector.

    Covers every weight (4-bit codes and adapters too), the settings of modules, routes
    and architecture, which adapters are on and their scale, the tokenizer and its
    padding side, stored prompts, the length limit and the width of cut vectors.
    """
    digest = hashlib.sha256()

    def add(*parts) -> None:
        digest.update(repr(parts).encode())

    add(model.max_seq_length, model.truncate_dim)
    routed = {
        name: given for name, given in (model.module_kwargs or {}).items() if given
    }
    add(model.prompts, model.default_prompt_name, routed)
    for name, module in model.named_modules():
        if isinstance(module, Module):
            compute = getattr(module, "compute", None)  # the dtype of a `Backbone`
            add(name, type(module).__name__, module.get_config_dict(), compute)
            add(_written(getattr(module, "tokenizer", None)))
        elif isinstance(module, PreTrainedModel):
            add({**module.config.to_dict(), **UNTELLING})
        elif isinstance(module, BaseTunerLayer):
            add(name, module.disable_adapters, module.active_adapters, module.scaling)
    for name, tensor in sorted(model.state_dict().items()):
        if isinstance(tensor, torch.Tensor):
            add(name, tensor.dtype, tuple(tensor.shape))
            bytes_ = tensor.detach().cpu().contiguous().flatten().view(torch.uint8)
            digest.update(bytes_.numpy())
    return digest.hexdigest()[:16]


def _written(tokenizer) -> tuple:
    """All of a tokenizer that changes a token, whichever library it is of."""
    fast = getattr(tokenizer, "backend_tokenizer", tokenizer)
    if hasattr(fast, "to_str"):
        own = {**json.loads(fast.to_str()), **UNTELLING}
        return own, getattr(tokenizer, "padding_side", None)
    own = vars(tokenizer) if hasattr(tokenizer, "__dict__") else {}
    own = {name: sorted(v) if isinstance(v, set) else v for name, v in own.items()}
    told = {k: v for k, v in own.items() if isinstance(v, str | int | list | dict)}
    return type(tokenizer).__name__, {**told, **UNTELLING}


def embed(
    model: SentenceTransformer,
    texts: Sequence[str],
    settings: Settings,
    prompt: str | None = None,
    *,
    role: str = "",
    cache: Path | str | None = "default",
) -> np.ndarray:
    """Unit vectors of `texts`, float32 (texts, dimension), in their order.

    `role` is "query", "document" or neither: the vectors are those of the model's
    `encode_query`, `encode_document` or `encode`, with the prompt and the route that it
    has for them, unless `prompt` is given. Equal texts are encoded once; vectors in
    `cache` (a folder; None: no cache) under the model's fingerprint and the dtype of
    its products are read instead. LabError names what is no text, and a text whose
    vector is not finite.
    """
    check_texts(texts)
    device = model.device.type
    dtype = compute_dtype(settings.encoder.compute_dtype, device)
    make = getattr(model, f"encode_{role}" if role else "encode")
    folder = VECTORS if cache == "default" else cache
    path = Path(folder, f"{fingerprint(model)}-{dtype}.sqlite") if folder else None

    def encode(new: list[str]) -> Iterator[np.ndarray]:
        low = dtype == torch.bfloat16
        with quiet(), torch.autocast(device, torch.bfloat16, enabled=low):
            vectors = make(
                new,
                prompt=prompt,
                batch_size=settings.encoder.encode_batch,
                convert_to_tensor=True,
                normalize_embeddings=True,
                show_progress_bar=False,
            )
        yield torch.nn.functional.normalize(vectors.float(), dim=-1).cpu().numpy()

    said = repr((role, prompt))
    return kept(path, texts, said, encode, model.get_embedding_dimension())


def kept(
    path: Path | None,
    texts: Sequence[str],
    prompt: str,
    make: Callable[[list[str]], Iterable[Sequence]],
    width: int | None = None,
) -> np.ndarray:
    """Vectors of `texts`, float32 (texts, width), read from `path` or made.

    `make` gives those of the missing texts in batches, in order; each is kept as it
    comes: nothing paid for is lost. `prompt` stands before every text. `path` None
    keeps nothing; a damaged file is made anew. LabError names a text whose vector is
    not finite or not as wide as the others: it is not kept.
    """
    keys = {
        text: hashlib.sha256(f"{prompt}\0{text}".encode()).digest() for text in texts
    }
    with closing(Shelf(path or ":memory:", "vectors", advice="remove it")) as shelf:
        try:
            found = shelf.get(keys.values())
        except Damaged:
            shelf.close()
            path.unlink()  # a cache can be made again
            found = {}
        known = {
            text: np.frombuffer(found[key][0], np.float32)
            for text, key in keys.items()
            if key in found
        }
        missing = [text for text in keys if text not in known]
        for batch in make(missing) if missing else ():
            fresh = [np.asarray(row, np.float32) for row in batch]
            width = width or len([*known.values(), *fresh][0])
            rows = dict(zip(missing, fresh, strict=False))
            for text, row in rows.items():
                if row.shape != (width,) or not np.isfinite(row).all():
                    raise LabError(
                        f"the vector of {text[:60]!r} is not {width} finite numbers: "
                        "it is not kept; look at this text and at the model"
                    )
            shelf.put((keys[text], row.tobytes()) for text, row in rows.items())
            known |= rows
            missing = missing[len(rows) :]
    rows = [known[text] for text in texts]
    return np.stack(rows) if rows else np.zeros((0, width or 0), np.float32)
