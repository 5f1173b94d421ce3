"""What ATA costs: against a mean, against attention matrices, against plain encode.

Models have random weights (time and memory do not depend on them), except where the
plain encoder is the peer. Ratios come from runs that alternate, so that what else the
machine does falls on both.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
import time
from collections.abc import Callable
from statistics import median

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize
from transformers import AutoModel, BertConfig, MistralConfig, PreTrainedConfig

from benchmarks import shape
from benchmarks.harness import Row, row
from nbutils.core.errors import LabError
from nbutils.core.fields import MINILM, Encoder
from nbutils.core.records import read_records
from nbutils.core.settings import resolve
from nbutils.encoder.attention import TAPPED, attention_tap, last_attention
from nbutils.encoder.backbone import Backbone, make_bidirectional
from nbutils.encoder.models import minilm_folder
from nbutils.encoder.pooling import TokenPooling, ata_weights, token_weights
from nbutils.training.footprint import MISTRAL_7B

LENGTHS = (64, 128, 256, 512)
TOKENS = 2048
"""Tokens of a timed batch, whatever the length of its texts."""
LONG = 2048
"""Length at which memory is compared."""
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Names of mallopt's parameters in glibc's malloc.h."""

SHAPES: dict[str, Callable[[], PreTrainedConfig]] = {
    "minilm": lambda: BertConfig(
        hidden_size=384, num_hidden_layers=6, num_attention_heads=12,
        intermediate_size=1536, max_position_embeddings=4096,
    ),
    "mistral": lambda: MistralConfig(
        vocab_size=8000, hidden_size=512, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=4, head_dim=64, intermediate_size=1792,
        max_position_embeddings=4096, sliding_window=None,
    ),
}  # fmt: skip
"""MiniLM's shape and a small decoder."""


def random_model(
    config: PreTrainedConfig,
    attention: str = TAPPED,
) -> torch.nn.Module:
    """A transformer with random weights in float32 that attends both ways."""
    config.use_cache = False
    torch.manual_seed(0)
    model = AutoModel.from_config(
        config, attn_implementation=attention, dtype=torch.float32
    )
    make_bidirectional(model)
    return model.eval().requires_grad_(False)


def nf4_model(config: PreTrainedConfig, device: str) -> torch.nn.Module:
    """A decoder with random weights in NF4 that attends both ways."""
    model = shape.random_model(config, device)
    make_bidirectional(model)
    return model.eval()


def with_mean(model, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Text vectors by mean pooling."""
    hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
    return torch.einsum("bt,btd->bd", token_weights("mean", mask), hidden.float())


def with_ata(model, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Text vectors by ATA pooling, without attention matrices."""
    with attention_tap(mask, last_attention(model)) as tap:
        hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
    weights = token_weights("ata", mask, tap.weights(mask, gradient=False))
    return torch.einsum("bt,btd->bd", weights, hidden.float())


def with_matrices(model, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Text vectors by ATA pooling from `output_attentions=True` (an eager model)."""
    output = model(input_ids=ids, attention_mask=mask, output_attentions=True)
    weights = ata_weights(output.attentions[-1], mask)
    return torch.einsum("bt,btd->bd", weights, output.last_hidden_state.float())


WAYS = {"mean": with_mean, "ata": with_ata, "matrices": with_matrices}


def batch_of(model, texts: int, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Random token ids and a mask without padding, on the model's device."""
    ids = torch.randint(5, model.config.vocab_size, (texts, length))
    ids = ids.to(model.device)
    return ids, torch.ones_like(ids)


def keep_freed_memory() -> None:
    """Let this process keep what it frees, where glibc's malloc is in use.

    By default malloc gives a forward pass's large tensors back to the system and asks
    for them again at the next one. The page faults cost either side more than pooling
    does, and how many there are changes from process to process.
    """
    libc = ctypes.CDLL(None) if os.name == "posix" else None
    mallopt = getattr(libc, "mallopt", None)
    if mallopt is not None:
        for parameter in (TRIM_THRESHOLD, MMAP_THRESHOLD):
            mallopt(parameter, 2**30)


def alternating(ours: Callable, theirs: Callable, repeats: int) -> tuple[float, float]:
    """Median seconds of two functions, called in turn after one call to warm up.

    Who comes first changes from pair to pair: the second finds warmer caches.
    """
    seconds: tuple[list[float], list[float]] = ([], [])
    pairs = [(ours, seconds[0]), (theirs, seconds[1])]
    for repeat in range(repeats + 1):
        for function, spent in pairs if repeat % 2 else reversed(pairs):
            began = time.perf_counter()
            function()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if repeat:
                spent.append(time.perf_counter() - began)
    return median(seconds[0]), median(seconds[1])


@torch.inference_mode()
def forward_rows(kind: str, lengths=LENGTHS, tokens=TOKENS, repeats=20) -> list[Row]:
    """Rows `ata_vs_mean`: seconds of a batch with ATA; peer: with a mean."""
    model, rows = random_model(SHAPES[kind]()), []
    for length in lengths:
        batch = batch_of(model, tokens // length, length)
        pair = alternating(
            lambda batch=batch: with_ata(model, *batch),
            lambda batch=batch: with_mean(model, *batch),
            repeats,
        )
        rows.append(row(f"ata_vs_mean {kind} {length}", pair[0], "s", pair[1]))
    return rows


@torch.inference_mode()
def eager_row(kind: str, length=512, tokens=TOKENS, repeats=5) -> Row:
    """Row `eager_vs_ata`: seconds with attention matrices; peer: with ATA's blocks."""
    ours, eager = (random_model(SHAPES[kind](), way) for way in (TAPPED, "eager"))
    batch = batch_of(ours, tokens // length, length)
    value, peer = alternating(
        lambda: with_matrices(eager, *batch), lambda: with_ata(ours, *batch), repeats
    )
    return row(f"eager_vs_ata {kind} {length}", value, "s", peer)


def peak_memory(kind: str, way: str, length: int) -> float:
    """Peak memory in MB of a process that encodes one text in one of WAYS."""
    code = (
        "import sys, torch; from nbutils import bench_pooling as b, machine;"
        "kind, way, length = sys.argv[1:];"
        "torch.set_grad_enabled(False);"
        "attention = 'eager' if way == 'matrices' else b.TAPPED;"
        "model = b.random_model(b.SHAPES[kind](), attention);"
        "b.WAYS[way](model, *b.batch_of(model, 1, int(length)));"
        "print(machine.peak_memory_gb() * 1000)"
    )
    # with a fixed threshold malloc gives large blocks back at once: steadier peaks
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, "-c", code, kind, way, str(length)],
        capture_output=True, text=True, env=environment, check=False,
    )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise LabError(f"the memory of {way} pooling could not be measured: {last}")
    return float(done.stdout.split()[-1])


def memory_row(kind: str, length: int = LONG, repeats: int = 3) -> Row:
    """Row `memory_vs_eager`: MB over a mean's peak with ATA; peer: with matrices."""
    peaks = {
        way: median(peak_memory(kind, way, length) for _ in range(repeats))
        for way in WAYS
    }
    value = max(0.0, peaks["ata"] - peaks["mean"])
    peer = peaks["matrices"] - peaks["mean"]
    return row(f"memory_vs_eager {kind} {length}", value, "MB", peer)


def throughput_row(count: int = 512, repeats: int = 5) -> Row:
    """Row `throughput_vs_st`: texts a second through `encode`; peer: plain MiniLM."""
    items = read_records(resolve()).items
    texts = [text for item in items for text in item.positives][:count]
    plain = SentenceTransformer(str(minilm_folder()), device="cpu")
    section = Encoder(
        student=MINILM,
        quantization="none",
        compute_dtype="float32",
        max_length=plain.max_seq_length,
    )
    backbone = Backbone(section)
    width = plain.get_embedding_dimension()
    modules = [backbone, TokenPooling("ata", width), Normalize()]
    ours = SentenceTransformer(modules=modules, device="cpu")
    mine, theirs = alternating(
        lambda: ours.encode(texts, show_progress_bar=False),
        lambda: plain.encode(texts, show_progress_bar=False),
        repeats,
    )
    return row(
        "throughput_vs_st", len(texts) / mine, "texts a second", len(texts) / theirs
    )


@torch.inference_mode()
def gpu_rows(texts: int = 64, length: int = 512, repeats: int = 5) -> list[Row]:
    """The rows of a Mistral-7B-shaped NF4 model on a GPU; none where there is none."""
    if not torch.cuda.is_available():
        print("no GPU here: rows of a Mistral-7B shape in NF4 are left out")
        return []
    model = nf4_model(MISTRAL_7B, "cuda")
    rows = []
    for size, count in ((length, texts), (4096, texts * length // 4096)):
        batch = batch_of(model, count, size)
        found = {}
        for way in ("ata", "mean"):
            torch.cuda.reset_peak_memory_stats()
            WAYS[way](model, *batch)
            found[way] = torch.cuda.max_memory_allocated() / 1e9
        pair = alternating(
            lambda batch=batch: with_ata(model, *batch),
            lambda batch=batch: with_mean(model, *batch),
            repeats,
        )
        name = f"mistral-7b nf4 {count} x {size}"
        rows.append(row(f"ata_vs_mean {name}", pair[0], "s", pair[1]))
        rows.append(row(f"peak_memory {name}", found["ata"], "GB", found["mean"]))
    return rows


def rows(**where: str) -> list[Row]:
    """The suite: every row above, on the CPU and, where there is one, on the GPU."""
    keep_freed_memory()
    found = []
    for kind in ("minilm", "mistral"):
        found += [*forward_rows(kind), eager_row(kind), memory_row(kind)]
    return [*found, throughput_row(), *gpu_rows()]
