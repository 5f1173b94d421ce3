"""The paper's training step on one GPU: memory, speed, and the peer's at the same work.

The model has Mistral-7B's shape and random weights. Every function takes a shape and a
device, so that all of it runs on a CPU with a small shape too.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import pandas as pd
import torch
from transformers import MistralConfig

from benchmarks import harness
from benchmarks.gpu_peer import peer_rows
from benchmarks.shape import (
    QUERIES,
    Row,
    matrix_rate,
    of_full_length,
    peak_gb,
    recorded,
    steps_of,
    student,
)
from nbutils.core import machine
from nbutils.core.errors import LabError
from nbutils.core.fields import Settings
from nbutils.core.files import write_table
from nbutils.core.settings import ROOT, resolve
from nbutils.mining import search
from nbutils.training import footprint, gradcache

LENGTHS = (128, 256, 512)
MINI_BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
CARDS = (16, 24, 80)
CONTEXT_GB = 0.6
"""What CUDA itself takes of a card, left free where a smaller card is played."""
LIMITS = {
    "16 texts": {},
    "64 texts": {"mini_batch": 64, "mini_batch_tokens": 0},
    "8192 tokens": {"mini_batch": 256, "mini_batch_tokens": 8192},
}
"""Limits of a mini-batch whose speed is compared."""


def memory_rows(
    config: MistralConfig,
    settings: Settings,
    device: str,
    lengths: Sequence[int] = LENGTHS,
    mini_batches: Sequence[int] = MINI_BATCHES,
) -> Iterator[Row]:
    """Rows `peak_memory M x L`: GB of a step by mini-batch and length of its texts.

    Stops at the first mini-batch of a length that does not fit, and says so.
    """
    model = student(config, settings, device)
    for length in lengths:
        for size in mini_batches:
            try:
                peak = _peak_of_step(model, size, length, settings, device)
            except torch.OutOfMemoryError:
                print(f"{size} x {length} does not fit this card")
                break
            yield harness.row(f"peak_memory {size} x {length}", peak, "GB")


def _peak_of_step(model, size: int, length: int, settings: Settings, device) -> float:
    """GB at the peak of a step of two mini-batches of `size` texts of full length."""
    changes = {"mini_batch": size, "mini_batch_tokens": 0, "max_length": length}
    changed = settings.changed(**changes)
    model.max_seq_length = length
    each = footprint.texts_a_step(changed) / changed.batch_size
    data = of_full_length(-(-2 * size // int(each)) + 1, changed)
    batch = gradcache.make_batch(data, "N2", changed, 0)
    return peak_gb(device, lambda: next(steps_of(model, batch, changed)))


def fits_rows(
    config: MistralConfig,
    settings: Settings,
    device: str,
    cards: Sequence[float] = CARDS,
    mini_batches: Sequence[int] = MINI_BATCHES,
) -> Iterator[Row]:
    """Rows `largest_mini_batch C GB`: the largest that runs with so much memory.

    A smaller card is played by letting the process have no more than its memory.
    Cards that this one is too small to play are left out.
    """
    model = student(config, settings, device)
    length = settings.encoder.max_length
    for card in cards:
        with limited_to(card, device) as possible:
            if not possible:
                print(f"this card is smaller than {card} GB: that row is left out")
                continue

            def runs(size: int) -> bool:
                try:
                    _peak_of_step(model, size, length, settings, device)
                except torch.OutOfMemoryError:
                    return False
                return True

            largest = largest_that(runs, mini_batches)
        yield harness.row(f"largest_mini_batch {card} GB x {length}", largest, "texts")


class limited_to:
    """No more than `card` GB (less CUDA's own) for this process, for a while."""

    def __init__(self, card: float, device: str):
        self.card, self.device = card, device

    def __enter__(self) -> bool:
        if self.device != "cuda":
            return True
        total = torch.cuda.get_device_properties(0).total_memory / 1e9
        share = (self.card - CONTEXT_GB) / total
        torch.cuda.empty_cache()
        if share <= 1:
            torch.cuda.set_per_process_memory_fraction(share)
        return share <= 1

    def __exit__(self, *_) -> None:
        if self.device == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0)


def largest_that(runs: Callable[[int], bool], sizes: Sequence[int]) -> int:
    """The last of growing sizes before the first that does not run; 0: none runs."""
    largest = 0
    for size in sizes:
        if not runs(size):
            break
        largest = size
    return largest


def speed_rows(
    config: MistralConfig,
    settings: Settings,
    device: str,
    queries: int = QUERIES,
    rate: float | None = None,
    steps: int = 3,
) -> Iterator[Row]:
    """Rows on recorded texts, by limit of a mini-batch: texts a second, matrix share.

    `matrix_share` is the frozen weights' matrix work on tokens that are no padding, all
    passes counted (`footprint.passes`), over what the card's own product measures
    (peer); `model_share` counts one pass forward and one back.
    """
    rate = rate or matrix_rate(device)
    yield harness.row("matrix_rate", rate, "TFLOP a second")
    model = student(config, settings, device)
    batch = gradcache.make_batch(recorded(queries), "N2", settings, 0)
    for name, changes in LIMITS.items():
        changed = settings.changed(**changes)
        chunks = gradcache.batch_chunks(model, batch, changed)
        useful = sum(int(group["attention_mask"].sum()) for group in chunks.groups)
        padded = sum(group["attention_mask"].numel() for group in chunks.groups)
        clock = steps_of(model, batch, changed)
        next(clock)
        seconds = median(next(clock) for _ in range(steps))
        work = footprint.matrix_work(config, changed, useful) / seconds
        once = work * 2 / footprint.passes(changed)
        texts = sum(chunks.sizes) / seconds
        yield harness.row(f"texts_per_second, {name}", texts, "texts a second")
        yield harness.row(f"useful_tokens, {name}", useful, "tokens", padded)
        yield harness.row(f"matrix_share, {name}", work, "TFLOP a second", rate)
        yield harness.row(f"model_share, {name}", once, "TFLOP a second", rate)


def knob_rows(
    config: MistralConfig, settings: Settings, device: str, queries: int = 16
) -> Iterator[Row]:
    """Rows `knob NAME, GB` and `knob NAME, s`: one change of the profile at a time.

    A step of `queries` queries whose texts all have full length. A batch in one piece
    (`gradient_cache=false`) would be another batch: it is left to the formula.
    """
    for name, changes in footprint.KNOBS.items():
        if "gradient_cache" in changes:
            continue
        changed = settings.changed(**dict(changes))
        model = student(config, changed, device)
        data = of_full_length(queries, changed)
        batch = gradcache.make_batch(data, "N2", changed, 0)
        clock = steps_of(model, batch, changed)
        try:
            peak = peak_gb(device, lambda clock=clock: next(clock))
            seconds = median(next(clock) for _ in range(2))
        except torch.OutOfMemoryError:
            print(f"{name} does not fit this card")
            continue
        yield harness.row(f"knob {name}, GB", peak, "GB")
        yield harness.row(f"knob {name}, s", seconds, f"s a step of {queries} queries")


def search_row(
    device: str, documents: int = 200_000, queries: int = 10_000, width: int = 1024
) -> Row:
    """Row `search`: queries a second, the 100 best of each, exact."""
    rng = np.random.default_rng(0)
    corpus, asked = (
        rng.standard_normal((count, width), dtype=np.float32)
        for count in (documents, queries)
    )
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        search.nearest(asked, corpus, 100, device=device)
        seconds.append(time.perf_counter() - began)
    name = f"search {queries} x {documents} x {width}"
    return harness.row(name, queries / median(seconds), "queries a second")


def rows(out: str = "runs", **where: str) -> list[Row]:
    """The suite `gpu`; every part is kept in OUT/gpu/CARD.csv as soon as it is made.

    LabError where PyTorch finds no CUDA GPU.
    """
    if not torch.cuda.is_available():
        raise LabError(
            "the suite gpu needs a CUDA GPU and PyTorch finds none: run it on a "
            "machine that has one"
        )
    card = torch.cuda.get_device_name(0)
    name = re.sub(r"[^a-z0-9]+", "-", card.lower()).strip("-")
    return measure(
        footprint.MISTRAL_7B, resolve("paper"), "cuda",
        Path(ROOT, out, "gpu", f"{name}.csv"),
    )  # fmt: skip


def measure(
    config: MistralConfig, settings: Settings, device: str, path: Path
) -> list[Row]:
    """Every part of the suite in turn, written to the csv file row by row."""
    parts = (speed_rows, peer_rows, fits_rows, memory_rows, knob_rows)
    found: list[Row] = []
    for part in parts:
        for row in part(config, settings, device):
            found.append(row)
            keep(path, found)
    found.append(search_row(device))
    keep(path, found)
    return found


def keep(path: Path, found: Sequence[Row]) -> None:
    """Write the rows with the card and the versions that made them."""
    versions = ", ".join(f"{k} {v}" for k, v in machine.versions().items())
    table = pd.DataFrame(found).assign(device=machine.device_name(), versions=versions)
    write_table(path, table)
