"""A student of any shape with random weights, and the clocks around its step.

What time and memory a model takes does not depend on its weights. A decoder of 7
billion is made where it runs, in 4 bits, layer by layer.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from statistics import median
from typing import Any

import bitsandbytes as bnb
import torch
from sentence_transformers import SentenceTransformer
from transformers import AutoModel, MistralConfig

from benchmarks import harness
from nbutils.core import machine
from nbutils.core.fields import Settings
from nbutils.core.records import TrainingInstance, read_records
from nbutils.core.settings import resolve
from nbutils.encoder.attention import TAPPED
from nbutils.encoder.backbone import Backbone
from nbutils.encoder.student import build_student
from nbutils.training import gradcache, instances, loop

QUERIES = 64
"""Queries of a timed step; with GradCache a larger batch takes as much a text."""

Row = harness.Row


def in_4_bits(weight: torch.Tensor, device: str) -> bnb.nn.Linear4bit:
    """A linear layer in NF4 with double quantization, from a weight (out, in)."""
    outputs, inputs = weight.shape
    layer = bnb.nn.Linear4bit(
        inputs, outputs, bias=False, compute_dtype=torch.bfloat16,
        compress_statistics=True, quant_type="nf4", device="meta",
    )  # fmt: skip
    layer.weight = bnb.nn.Params4bit(
        weight, requires_grad=False, compress_statistics=True, quant_type="nf4"
    )
    return layer.to(device)


def random_model(
    config: MistralConfig, device: str, *, nf4: bool = True, attention: str = TAPPED
) -> torch.nn.Module:
    """A decoder with random weights; no more than one layer of it is ever whole.

    It starts without memory (on `meta`); each linear layer is drawn on the device and
    quantized at once, so neither the host nor the GPU holds the 16-bit model.
    """
    config.use_cache = False
    with torch.device("meta"):
        model = AutoModel.from_config(
            config, attn_implementation=attention, dtype=torch.bfloat16
        )
    torch.manual_seed(0)

    def drawn(shape) -> torch.Tensor:
        return 0.02 * torch.randn(*shape, dtype=torch.bfloat16, device=device)

    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if nf4 and type(child) is torch.nn.Linear:
                setattr(module, name, in_4_bits(drawn(child.weight.shape), device))
        for name, weight in list(module.named_parameters(recurse=False)):
            if weight.is_meta:
                made = drawn(weight.shape)
                made = torch.ones_like(made) if weight.ndim == 1 else made
                setattr(module, name, torch.nn.Parameter(made))
    model.rotary_emb = type(model.rotary_emb)(config).to(device)
    model.is_loaded_in_4bit = nf4  # what peft goes by
    return model.requires_grad_(False)


class ShapedBackbone(Backbone):
    """The student's backbone with random weights of a given shape."""

    def __init__(self, config: MistralConfig, *given: Any, **named: Any):
        object.__setattr__(self, "shape", config)
        super().__init__(*given, **named)

    def _load(self, source: str, device: str):
        nf4 = self.section.quantization == "nf4"
        return random_model(self.shape, device, nf4=nf4)


def student(
    config: MistralConfig, settings: Settings, device: str
) -> SentenceTransformer:
    """The settings' student on random weights: adapters, checkpointing, pooling."""
    # tiny-mistral's tokenizer is made in code
    changed = settings.changed(student="tiny-mistral", device=device)
    return build_student(changed, partial(ShapedBackbone, config))


# -- texts and clocks ------------------------------------------------------------------


def recorded(queries: int) -> list[TrainingInstance]:
    """Recorded graded examples with retrieved negatives, the first `queries`."""
    data = instances.training_data(read_records(resolve()))
    return [i for i in data if i.graded and len(i.retrieved) > 1][:queries]


def of_full_length(queries: int, settings: Settings) -> list[TrainingInstance]:
    """Instances all of whose texts, all different, are cut at `max_length` tokens."""
    long = " and so on" * settings.encoder.max_length
    return [
        TrainingInstance(
            id=f"q{n}",
            dataset="full",
            instruction="",
            query=f"{n} query{long}",
            positive=f"{n} positive{long}",
            graded={f"N{k}": f"{n} negative {k}{long}" for k in (1, 2, 3, 4)},
            retrieved=tuple(f"{n} found {k}{long}" for k in range(4)),
        )
        for n in range(queries)
    ]


def steps_of(
    model: SentenceTransformer, batch: gradcache.Batch, settings: Settings
) -> Iterator[float]:
    """Seconds of one training step after another, without end."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = loop.make_optimizer(parameters, settings)
    while True:
        began = time.perf_counter()
        loop.training_step(model, batch, optimizer, settings)
        finish(model.device.type)
        yield time.perf_counter() - began


def finish(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def peak_gb(device: str, call: Callable[[], Any]) -> float:
    """GB of the device's memory that are in use at the peak of a call."""
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated() / 1e9
    machine.forget_peak()
    call()
    return machine.peak_memory_gb()


def matrix_rate(device: str, size: int = 8192, repeats: int = 20) -> float:
    """TFLOP a second of a bfloat16 matrix product, the median of several."""
    a, b = (torch.randn(size, size, device=device).bfloat16() for _ in range(2))
    seconds = []
    for repeat in range(repeats + 2):
        began = time.perf_counter()
        a @ b
        finish(device)
        if repeat > 1:
            seconds.append(time.perf_counter() - began)
    return 2 * size**3 / median(seconds) / 1e12
