"""The paper's training step on one GPU: memory, speed, and the peer's at the same work.

The model has Mistral-7B's shape and random weights, made where it runs, in 4 bits. With
a small shape and other settings every part runs on a CPU too.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import bitsandbytes as bnb
import numpy as np
import pandas as pd
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, MistralConfig

from benchmarks.harness import Row, measured, row
from benchmarks.training import batches, our_steps, peer_model, peer_seconds
from nbutils.core import machine
from nbutils.core.fields import Settings
from nbutils.core.files import write_table
from nbutils.core.records import TrainingInstance
from nbutils.core.settings import ROOT, resolve
from nbutils.encoder.models import device_of, tiny_folder
from nbutils.encoder.student import build_student
from nbutils.mining.search import nearest
from nbutils.training import footprint, gradcache

QUERIES, KNOB_QUERIES = 64, 16
"""Queries of a timed step; with GradCache a larger batch takes as much a text."""
LENGTHS = (128, 256, 512)
MINI_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
LIMITS = {
    "16 texts": {},
    "64 texts": {"mini_batch": 64, "mini_batch_tokens": 0},
    "8192 tokens": {"mini_batch": 256, "mini_batch_tokens": 8192},
}
"""Limits of a mini-batch whose speed is compared."""
CARDS, CONTEXT_GB = (16, 24, 80), 0.6
"""GB of cards that are played, and what CUDA itself takes of them."""
MATRIX = 8192
SEARCH = (10_000, 200_000, 1024)
"""Queries, documents and width of the search."""


def in_4_bits(weight: torch.Tensor, device: str) -> bnb.nn.Linear4bit:
    """A linear layer in NF4 with double quantization, from a weight (out, in)."""
    outputs, inputs = weight.shape
    layer = bnb.nn.Linear4bit(inputs, outputs, False, torch.bfloat16, device="meta")
    layer.weight = bnb.nn.Params4bit(
        weight, requires_grad=False, compress_statistics=True, quant_type="nf4"
    )
    return layer.to(device)


def random_model(config: MistralConfig, device: str, nf4: bool, attention: str):
    """A decoder with random weights; no more than one layer of it is ever whole.

    It starts without memory (on `meta`); each linear layer is drawn on the device and
    quantized at once, so neither the host nor the GPU holds the 16-bit model.
    """
    config.use_cache = False
    named = {"attn_implementation": attention, "dtype": torch.bfloat16}
    with torch.device("meta"):
        model = AutoModel.from_config(config, **named)

    def drawn(weight: torch.Tensor) -> torch.Tensor:
        made = torch.empty(weight.shape, dtype=torch.bfloat16, device=device)
        return made.normal_(std=0.02) if made.ndim > 1 else made.fill_(1)

    for module in model.modules():
        for name, child in module.named_children():
            if nf4 and type(child) is torch.nn.Linear:
                setattr(module, name, in_4_bits(drawn(child.weight), device))
        for name, weight in module.named_parameters(recurse=False):
            if weight.is_meta:
                setattr(module, name, torch.nn.Parameter(drawn(weight)))
    model.rotary_emb = type(model.rotary_emb)(config).to(device)
    model.is_loaded_in_4bit = nf4  # what peft goes by
    return model


@contextmanager
def random_weights(config: MistralConfig) -> Iterator[None]:
    """Within the block, a transformer that is loaded is a random one of this shape."""

    def made(name: str, device_map: dict, **given: Any) -> torch.nn.Module:
        nf4 = given.get("quantization_config") is not None
        attention = given.get("attn_implementation", "sdpa")
        return random_model(config, device_map[""], nf4, attention)

    with patch.object(AutoModel, "from_pretrained", made):
        yield


def student(config: MistralConfig, settings: Settings) -> SentenceTransformer:
    """The settings' student on random weights: adapters, checkpointing, pooling."""
    with random_weights(config):  # tiny-mistral's tokenizer is made in code
        return build_student(settings.changed(student="tiny-mistral"))


def full_batch(queries: int, settings: Settings) -> gradcache.Batch:
    """A batch all of whose texts, all different, are cut at `max_length` tokens."""
    long = " and so on" * settings.encoder.max_length
    made = [
        TrainingInstance(
            id=f"q{n}", dataset="full", instruction="",
            query=f"{n} query{long}", positive=f"{n} positive{long}",
            graded={f"N{k}": f"{n} negative {k}{long}" for k in (1, 2, 3, 4)},
            retrieved=tuple(f"{n} found {k}{long}" for k in range(4)),
        )
        for n in range(queries)
    ]  # fmt: skip
    return gradcache.make_batch(made, "N2", settings, 0)


def speed_rows(config: MistralConfig, settings: Settings) -> Iterator[Row]:
    """Rows on recorded texts, by limit of a mini-batch: texts a second, matrix share.

    `matrix_share` is the frozen weights' matrix work on tokens that are no padding, all
    passes counted (`footprint.passes`), over what the card's own bfloat16 product
    measures (peer); `model_share` counts one pass forward and one back.
    """
    device = settings.device
    a = torch.randn(MATRIX, MATRIX, device=device).bfloat16()
    product = median(measured(lambda: a @ a, device).seconds for _ in range(22))
    rate = 2 * MATRIX**3 / product / 1e12
    yield row("matrix_rate", rate, "TFLOP a second")
    model = student(config, settings)
    batch = batches(settings.changed(batch_size=QUERIES), 1)[0]
    for name, changes in LIMITS.items():
        changed = settings.changed(**changes)
        chunks = gradcache.batch_chunks(model, batch, changed)
        useful = sum(int(group["attention_mask"].sum()) for group in chunks.groups)
        padded = sum(group["attention_mask"].numel() for group in chunks.groups)
        _, seconds = first_and_median(model, batch, changed)
        work = footprint.matrix_work(config, changed, useful) / seconds
        once = work * 2 / footprint.passes(changed)
        texts = sum(chunks.sizes) / seconds
        yield row(f"texts_per_second, {name}", texts, "texts a second")
        yield row(f"useful_tokens, {name}", useful, "tokens", padded)
        yield row(f"matrix_share, {name}", work, "TFLOP a second", rate)
        yield row(f"model_share, {name}", once, "TFLOP a second", rate)


def first_and_median(model, batch, settings: Settings) -> tuple[float, float]:
    """GB at the peak of a first step, and the median seconds of two after it."""
    step = our_steps(settings, [batch], model)
    return step().peak, median(step().seconds for _ in range(2))


def peer_rows(config: MistralConfig, settings: Settings) -> Iterator[Row]:
    """Rows `step_vs_st`: texts a second and GB; peer: the library's own cached loss.

    Same shape, adapters, precision, attention (causal), pooling (mean), batch of
    recorded triplets and limit of a mini-batch; gradient checkpointing on both sides.
    """
    same = settings.changed(
        mixing="synthetic", pooling="mean", bidirectional=False, text_format="plain",
        batch_size=QUERIES, student=str(tiny_folder("tiny-mistral", ROOT / ".cache")),
    )  # fmt: skip
    made = batches(same, 1)
    gigabytes, seconds = first_and_median(student(config, same), made[0], same)
    for upcast in (False, True):
        name = f"step_vs_st {'with' if upcast else 'without'} k-bit upcast"
        with random_weights(config):
            model = peer_model(same, upcast=upcast)
        step = partial(peer_seconds, model, made, same, cached=True, steps=2)
        try:
            peer = measured(step, same.device)
        except torch.OutOfMemoryError:
            print(f"{name}: the peer does not fit this card")
            continue
        rate, peer_rate = (3 * QUERIES / spent for spent in (seconds, peer.result))
        yield row(f"{name}, speed", rate, "texts a second", peer_rate)
        yield row(f"{name}, memory", gigabytes, "GB", peer.peak)


def fitting(model, length: int, settings: Settings) -> Iterator[tuple[int, float]]:
    """(texts, GB) of each mini-batch that fits, up to the first that does not.

    GB at the peak of a step of two mini-batches whose texts have `length` tokens.
    """
    model.max_seq_length = length
    for size in MINI_BATCHES:
        sizes = {"mini_batch": size, "mini_batch_tokens": 0, "max_length": length}
        changed = settings.changed(**sizes)
        each = footprint.texts_a_step(changed) // changed.training.batch_size
        batch = full_batch(-(-2 * size // each) + 1, changed)
        try:
            peak = our_steps(changed, [batch], model)().peak
        except torch.OutOfMemoryError:
            print(f"{size} x {length} does not fit")
            return
        yield size, peak


def memory_rows(config: MistralConfig, settings: Settings) -> Iterator[Row]:
    """Rows `peak_memory M x L`: GB of a step by mini-batch and length of its texts."""
    model = student(config, settings)
    for length in LENGTHS:
        for size, peak in fitting(model, length, settings):
            yield row(f"peak_memory {size} x {length}", peak, "GB")


def fits_rows(config: MistralConfig, settings: Settings) -> Iterator[Row]:
    """Rows `largest_mini_batch C GB`: the largest that runs with so much memory.

    A smaller card is played by letting the process have no more than its memory (less
    CUDA's own). Cards that this one is too small to play are left out.
    """
    model, length = student(config, settings), settings.encoder.max_length
    cuda = settings.device == "cuda"
    whole = torch.cuda.get_device_properties(0).total_memory / 1e9 if cuda else np.inf
    for card in CARDS:
        share = (card - CONTEXT_GB) / whole
        if share > 1:
            print(f"this card is smaller than {card} GB: that row is left out")
            continue
        if cuda:
            torch.cuda.empty_cache()
            torch.cuda.set_per_process_memory_fraction(share)
        largest = max((size for size, _ in fitting(model, length, settings)), default=0)
        yield row(f"largest_mini_batch {card} GB x {length}", largest, "texts")
    if cuda:
        torch.cuda.set_per_process_memory_fraction(1.0)


def knob_rows(config: MistralConfig, settings: Settings) -> Iterator[Row]:
    """Rows `knob NAME, GB` and `knob NAME, s`: one change of the profile at a time.

    A step of queries whose texts all have full length. A batch in one piece
    (`gradient_cache=false`) would be another batch: it is left to the formula.
    """
    for name, changes in footprint.KNOBS.items():
        if "gradient_cache" in changes:
            continue
        changed = settings.changed(**changes)
        batch = full_batch(KNOB_QUERIES, changed)
        try:
            peak, seconds = first_and_median(student(config, changed), batch, changed)
        except torch.OutOfMemoryError:
            print(f"{name} does not fit this card")
            continue
        yield row(f"knob {name}, GB", peak, "GB")
        yield row(f"knob {name}, s", seconds, f"s a step of {KNOB_QUERIES} queries")


def search_rows(config: MistralConfig, settings: Settings) -> Iterator[Row]:
    """Row `search`: queries a second, the 100 best of each, exact."""
    queries, documents, width = SEARCH
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((queries + documents, width), dtype=np.float32)
    asked, corpus = vectors[:queries], vectors[queries:]
    search = partial(nearest, asked, corpus, 100, device=settings.device)
    seconds = median(measured(search).seconds for _ in range(3))
    name = f"search {queries} x {documents} x {width}"
    yield row(name, queries / seconds, "queries a second")


PARTS = (speed_rows, peer_rows, fits_rows, memory_rows, knob_rows, search_rows)


def rows(
    out: str, config: MistralConfig = footprint.MISTRAL_7B, settings=None
) -> list[Row]:
    """The suite `gpu`; after each row all so far are written to OUT/gpu/CARD.csv.

    LabError where the settings (None: profile `paper`) want a GPU and there is none.
    """
    settings = settings or resolve("paper")
    device_of(settings)
    card = machine.device_name()
    path = Path(ROOT, out, "gpu", "-".join(card.lower().split()) + ".csv")
    versions = ", ".join(f"{k} {v}" for k, v in machine.versions().items())
    found: list[Row] = []
    for made in itertools.chain.from_iterable(part(config, settings) for part in PARTS):
        found.append(made)
        write_table(path, pd.DataFrame(found).assign(device=card, versions=versions))
    return found
