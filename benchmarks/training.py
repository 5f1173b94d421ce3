"""What a training step costs beside sentence-transformers, and what GradCache saves.

Both sides train the same 4-bit backbone with the same adapters, pooling, precision and
batches of recorded texts. Steps alternate, so that what else the machine does falls on
both; memory is measured in a process of its own for each way.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from statistics import median
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from sentence_transformers import (
    SentenceTransformer,
    SentenceTransformerTrainer,
    SentenceTransformerTrainingArguments,
)
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import TrainerCallback

from benchmarks import harness
from nbutils.core import machine
from nbutils.core.errors import LabError
from nbutils.core.fields import Settings
from nbutils.core.records import read_records
from nbutils.core.settings import resolve
from nbutils.encoder import backbone
from nbutils.encoder.models import compute_dtype, minilm_folder, quiet
from nbutils.encoder.student import build_student
from nbutils.training import gradcache, instances, loop

QUERIES = 32
STEPS, ROUNDS = 3, 3
"""Steps that are timed in each round after one that is not, and rounds."""

Row = harness.Row


def batch_settings(**changes) -> Settings:
    """The page's student on batches of 32 × (query, positive, one written negative)."""
    return resolve(
        overrides={
            "batch_size": QUERIES,
            "mixing": "synthetic",
            "pooling": "mean",
            **changes,
        }
    )


def batches(settings: Settings, count: int) -> list[gradcache.Batch]:
    """`count` batches of recorded training texts, the same in every call."""
    data = [i for i in instances.training_data(read_records(settings)) if i.graded]
    starts = [n * QUERIES for n in range(count)]
    return [
        gradcache.make_batch(data[start : start + QUERIES], "N2", settings, step)
        for step, start in enumerate(starts)
    ]


def our_steps(settings: Settings, made: list[gradcache.Batch]) -> Iterator[float]:
    """Seconds of one training step after another, without end."""
    student = build_student(settings)
    parameters = [p for p in student.parameters() if p.requires_grad]
    optimizer = loop.make_optimizer(parameters, settings)
    while True:
        for batch in made:
            began = time.perf_counter()
            loop.training_step(student, batch, optimizer, settings)
            yield time.perf_counter() - began


# -- the peer ------------------------------------------------------------------------


def peer_model(settings: Settings) -> SentenceTransformer:
    """The same student as the library's documentation builds one: its own modules."""
    dtype = compute_dtype(settings.encoder.compute_dtype, "cpu")
    with quiet():
        transformer = Transformer(
            str(minilm_folder()),
            max_seq_length=settings.encoder.max_length,
            model_kwargs={
                "quantization_config": backbone.quantization_config(
                    settings.encoder.quantization, dtype
                ),
                "device_map": {"": "cpu"},
            },
        )
    pooling = Pooling(transformer.get_embedding_dimension(), "mean")
    model = SentenceTransformer(modules=[transformer, pooling], device="cpu")
    model.add_adapter(
        LoraConfig(
            r=settings.encoder.lora_r,
            lora_alpha=settings.encoder.lora_alpha,
            lora_dropout=settings.encoder.lora_dropout,
            target_modules="all-linear",
        )
    )
    backbone.keep_differentiable(model)
    return model


class _Clock(TrainerCallback):
    """Notes when each step ends: between two ends lie collating and the whole step."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def on_step_end(self, args, state, control, **kwargs) -> None:
        self.ends.append(time.perf_counter())


def peer_columns(made: list[gradcache.Batch]) -> Dataset:
    """The batches' rows as the peer reads them: anchor, positive, negative."""
    rows = [
        {"anchor": i.query, "positive": positive, "negative": negative}
        for batch in made
        for i, positive, negative in zip(
            batch.instances,
            batch.documents[: len(batch.instances)],
            batch.documents[len(batch.instances) :],
            strict=True,
        )
    ]
    return Dataset.from_list(rows)


def peer_round(
    model, loss, data: Dataset, settings: Settings, steps: int, **others
) -> float:
    """Median seconds of a step of the library's own trainer, after one not counted.

    `others` are further arguments of the trainer, or other values of these.
    """
    clock = _Clock()
    device = model.device.type
    usual = {
        "max_steps": steps + 1,
        "per_device_train_batch_size": settings.training.batch_size,
        "learning_rate": settings.training.learning_rate,
        "bf16": compute_dtype(settings.encoder.compute_dtype, device) == torch.bfloat16,
        "use_cpu": device == "cpu",
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "seed": settings.seed,
    }
    with tempfile.TemporaryDirectory() as folder:
        arguments = SentenceTransformerTrainingArguments(
            output_dir=folder, **{**usual, **others}
        )
        trainer = SentenceTransformerTrainer(
            model=model,
            args=arguments,
            train_dataset=data,
            loss=loss,
            callbacks=[clock],
        )
        trainer.train()
    ends = clock.ends
    return median(b - a for a, b in itertools.pairwise(ends))


def step_rows(rounds: int = ROUNDS, steps: int = STEPS) -> list[Row]:
    """Rows `step_vs_st` (peer: its faster loss) and one for each of its losses."""
    settings = batch_settings()
    made = batches(settings, 4)
    data = peer_columns(made)
    ours = our_steps(settings, made)
    model = peer_model(settings)
    scale = 1 / settings.training.temperature
    peers = {
        "mnrl": losses.MultipleNegativesRankingLoss(model, scale=scale),
        "cached_mnrl": losses.CachedMultipleNegativesRankingLoss(model, scale=scale),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ("ours", *peers)}
    for _ in range(rounds):
        next(ours)
        seconds["ours"].append(median(next(ours) for _ in range(steps)))
        for name, loss in peers.items():
            seconds[name].append(peer_round(model, loss, data, settings, steps))
    value = median(seconds["ours"])
    medians = {name: median(seconds[name]) for name in peers}
    rows = [harness.row("step_vs_st", value, "s", min(medians.values()))]
    return rows + [
        harness.row(f"step_vs_st {name}", value, "s", medians[name]) for name in peers
    ]


# -- GradCache -----------------------------------------------------------------------


def cached_settings(cached: bool) -> Settings:
    """Plain steps in one piece, or cached ones in mini-batches an eighth of it."""
    texts = 3 * QUERIES
    size = texts // 8 if cached else texts
    return batch_settings(gradient_cache=cached, mini_batch=size, mini_batch_tokens=0)


def peak_of_step(cached: bool) -> float:
    """MB that a step needs at its peak beyond what stood before it, in this process."""
    settings = cached_settings(cached)
    whole = batches(settings, 1)[0]
    chosen = whole.instances[:4]
    small = gradcache.make_batch(chosen, whole.level, settings, step=0)
    steps = our_steps(settings, [small, whole])
    next(steps)  # the first step of a process loads libraries and kernels
    machine.forget_peak()
    before = machine.memory_now()
    next(steps)
    return (machine.peak_memory_gb() - before) * 1000


def _in_a_process(call: str) -> float:
    """What a call of this module returns in a fresh process."""
    code = f"from nbutils import bench_training as b; print(b.{call})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise LabError(f"the benchmark's part {call} failed: {last}")
    return float(done.stdout.split()[-1])


def gradcache_rows(rounds: int = ROUNDS) -> list[Row]:
    """Rows `gradcache_memory` and `gradcache_time`; peer: the plain step."""
    memory = {
        cached: _in_a_process(f"peak_of_step({cached})") for cached in (True, False)
    }
    ways = {cached: cached_settings(cached) for cached in (True, False)}
    seconds = in_turn(ways, batches(batch_settings(), 1), rounds)
    return [
        harness.row("gradcache_memory", memory[True], "MB", memory[False]),
        harness.row("gradcache_time", seconds[True], "s", seconds[False]),
    ]


def in_turn(
    ways: Mapping[Any, Settings], made: list[gradcache.Batch], rounds: int
) -> dict[Any, float]:
    """Median seconds of a step under each of some settings, steps taking turns."""
    running = {name: our_steps(settings, made) for name, settings in ways.items()}
    seconds: dict[Any, list[float]] = {name: [] for name in ways}
    for turn in range((rounds + 1) * len(made)):
        for name, steps in running.items():
            spent = next(steps)
            if turn >= len(made):
                seconds[name].append(spent)
    return {name: median(found) for name, found in seconds.items()}


# -- mini-batches by tokens ------------------------------------------------------------


def token_rows(rounds: int = ROUNDS) -> list[Row]:
    """Rows `token_budget` with and without GradCache; peer: no limit in tokens.

    Both sides sort by length; the batches are those of `step_vs_st`.
    """
    rows = []
    for cached in (False, True):
        usual = batch_settings(gradient_cache=cached)
        fixed = usual.changed(mini_batch_tokens=0)
        ways = {"fixed": fixed, "tokens": usual}
        seconds = in_turn(ways, batches(fixed, 2), rounds)
        name = "token_budget gradcache" if cached else "token_budget"
        rows.append(harness.row(name, seconds["tokens"], "s", seconds["fixed"]))
    return rows


def rows(**where: str) -> list[Row]:
    """The suite `training`."""
    return [*step_rows(), *gradcache_rows(), *token_rows()]
