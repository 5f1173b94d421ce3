"""The paper's training step on one GPU: memory, speed, and the peer's at the same work.

The model has Mistral-7B's shape and random weights; a small one runs on a CPU too.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
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
from nbutils.core.files import write_table
from nbutils.core.records import TrainingInstance
from nbutils.core.settings import ROOT, Settings, resolve
from nbutils.encoder.models import device_of, tiny_folder
from nbutils.encoder.student import build_student
from nbutils.mining.search import nearest
from nbutils.training import footprint, gradcache

QUERIES, KNOB_QUERIES = 64, 16
"""Queries of a timed step; with GradCache a larger batch takes as much a text."""
MATRIX = 8192
SEARCH = (10_000, 200_000, 1024)
"""Queries, documents and width of the search."""


def in_4_bits(weight: torch.Tensor, device: str) -> bnb.nn.Linear4bit:
    """A linear layer in NF4 with double quantization, from a weight (out, in)."""
    layer = bnb.nn.Linear4bit(*weight.T.shape, False, torch.bfloat16, device="meta")
    kind = {"compress_statistics": True, "quant_type": "nf4"}
    layer.weight = bnb.nn.Params4bit(weight, requires_grad=False, **kind)
    return layer.to(device)


def random_model(config: MistralConfig, /, name: str, device_map: dict, **given: Any):
    """A decoder with random weights, from what `from_pretrained` is given.

    It starts without memory (on `meta`); each linear layer is drawn on the device and
    quantized at once, so neither the host nor the GPU holds the 16-bit model.
    """
    config.use_cache = False
    device, nf4 = device_map[""], given.get("quantization_config") is not None
    attention = given.get("attn_implementation", "sdpa")
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


def random_weights(config: MistralConfig) -> AbstractContextManager:
    """Within the block, a transformer that is loaded is a random one of this shape."""
    return patch.object(AutoModel, "from_pretrained", partial(random_model, config))


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
    """Rows on recorded texts: texts a second, and TFLOP a second of matrix work.

    The frozen weights' work on tokens that are no padding, all passes counted
    (`footprint.matrix_work`); peer: the card's own bfloat16 product.
    """
    a = torch.randn(MATRIX, MATRIX, device=settings.device).bfloat16()
    product = (measured(lambda: a @ a, settings.device).seconds for _ in range(22))
    rate = 2 * MATRIX**3 / median(product) / 1e12
    model = student(config, settings)
    batch = batches(settings.changed(batch_size=QUERIES), 1)[0]
    groups, _ = gradcache.batch_chunks(model, batch, settings)
    masks = [group["attention_mask"] for group in groups]
    useful = sum(int(mask.sum()) for mask in masks)
    _, seconds = first_and_median(model, batch, settings)
    yield row("texts_per_second", sum(map(len, masks)) / seconds, "texts a second")
    work = footprint.matrix_work(config, settings, useful) / seconds
    yield row("matrix_share", work, "TFLOP a second", rate)


def first_and_median(model, batch, settings: Settings) -> tuple[float, float]:
    """GB at the peak of a first step, and the median seconds of two after it."""
    step = our_steps(settings, [batch], model)
    return step().peak, median(step().seconds for _ in range(2))


@contextmanager
def fitting(name: str) -> Iterator[None]:
    """The block ends with a printed line where the card is too small for it."""
    try:
        yield
    except torch.OutOfMemoryError:
        print(f"{name} does not fit this card")


def peer_rows(config: MistralConfig, settings: Settings) -> Iterator[Row]:
    """Rows `step_vs_st`: texts a second and GB; peer: the library's own cached loss.

    Same shape, adapters, precision, attention (causal), pooling (mean), batch of
    recorded triplets and limit of a mini-batch; gradient checkpointing on both sides.
    """
    same = settings.changed(
        mixing="synthetic", pooling="mean", bidirectional=False, text_format="plain",
        batch_size=QUERIES, student=str(tiny_folder("tiny-mistral", ROOT / ".cache")),
    )  # fmt: skip
    batch = batches(same, 1)[0]
    gigabytes, seconds = first_and_median(student(config, same), batch, same)
    for upcast in (False, True):
        name = f"step_vs_st {'with' if upcast else 'without'} k-bit upcast"
        with random_weights(config):
            model = peer_model(same, upcast=upcast)
        steps = partial(peer_seconds, model, batch, same, cached=True, steps=3)
        with fitting(name):
            peer = measured(steps, same.device)
            both = seconds, median(peer.result[1:])
            rate, peer_rate = (3 * QUERIES / spent for spent in both)
            yield row(f"{name}, speed", rate, "texts a second", peer_rate)
            yield row(f"{name}, memory", gigabytes, "GB", peer.peak)


def knob_rows(config: MistralConfig, settings: Settings) -> Iterator[Row]:
    """Rows `knob NAME, GB` and `knob NAME, s`: one change of the profile at a time.

    On texts that all have full length. A batch in one piece (`gradient_cache=false`)
    would be another batch: it is left to the formula.
    """
    unit = f"s a step of {KNOB_QUERIES} queries"
    for name, changes in footprint.KNOBS.items():
        if "gradient_cache" in changes:
            continue
        changed = settings.changed(**changes)
        batch = full_batch(KNOB_QUERIES, changed)
        model = student(config, changed)
        with fitting(name):
            gigabytes, seconds = first_and_median(model, batch, changed)
            yield row(f"knob {name}, GB", gigabytes, "GB")
            yield row(f"knob {name}, s", seconds, unit)


def search_rows(config: MistralConfig, settings: Settings) -> Iterator[Row]:
    """Row `search`: queries a second, the 100 best of each, exact."""
    queries, documents, width = SEARCH
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((queries + documents, width), dtype=np.float32)
    pair = vectors[:queries], vectors[queries:]
    search = partial(nearest, *pair, 100, device=settings.device)
    seconds = median(measured(search).seconds for _ in range(3))
    name = f"search {queries} x {documents} x {width}"
    yield row(name, queries / seconds, "queries a second")


PARTS = (speed_rows, peer_rows, knob_rows, search_rows)


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
    for part in PARTS:
        for made in part(config, settings):
            found.append(made)
            table = pd.DataFrame(found).assign(device=card, versions=versions)
            write_table(path, table)
    return found
