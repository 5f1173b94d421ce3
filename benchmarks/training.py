"""What a training step costs beside sentence-transformers, and what GradCache saves.

Both sides train the same 4-bit backbone with the same adapters, pooling, precision and
batches of recorded texts.
"""

import itertools
import random
import tempfile
import time
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, prepare_model_for_kbit_training
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses, trainer, training_args
from transformers import TrainerCallback

from benchmarks.harness import Row, in_process, in_turn, measured, row, timed_row
from nbutils.core.fields import Settings
from nbutils.core.records import TrainingInstance, read_records
from nbutils.core.sections import MINILM, SMOLLM2
from nbutils.core.settings import resolve
from nbutils.encoder.models import compute_dtype, device_of, local_name, quiet
from nbutils.encoder.student import build_student
from nbutils.encoder.transformer import keep_differentiable, quantization_config
from nbutils.training import instances, loop
from nbutils.training.gradcache import Batch, make_batch

ROUNDS = 3
"""Steps of each side that are timed, in turn; each is on another batch."""


def student_settings(**changes: Any) -> Settings:
    """The page's student on batches of 32 × (query, positive, one written negative)."""
    usual = {"student": MINILM, "batch_size": 32, "mixing": "synthetic"}
    return resolve(overrides={**usual, "pooling": "mean", **changes})


@cache
def recorded() -> list[TrainingInstance]:
    """Recorded graded examples that have retrieved negatives too, in one random order.

    As recorded, neighbours are alike in length, and batches of them are not.
    """
    data = instances.training_data(read_records(resolve()))
    chosen = [i for i in data if i.graded and len(i.retrieved) > 1]
    return random.Random(0).sample(chosen, len(chosen))


def batches(settings: Settings, count: int) -> list[Batch]:
    """`count` batches of recorded training texts, the same in every call."""
    size = settings.training.batch_size
    parts = [recorded()[n * size :][:size] for n in range(count)]
    return [make_batch(part, "N2", settings, n) for n, part in enumerate(parts)]


def turns(settings: Settings, rounds: int = ROUNDS) -> list[Batch]:
    """A small batch, whose step loads libraries and kernels, and one for each round."""
    return [*batches(settings.changed(batch_size=2), 1), *batches(settings, rounds)]


def our_steps(
    settings: Settings, made: list[Batch], model: SentenceTransformer | None = None
) -> Callable[[], Any]:
    """A function that measures the next step of the model (None: a fresh student)."""
    model = model or build_student(settings)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer, coming = loop.make_optimizer(parameters, settings), itertools.cycle(made)
    return lambda: measured(
        partial(loop.training_step, model, next(coming), optimizer, settings),
        model.device.type,
    )


def peer_model(settings: Settings, upcast: bool = False) -> SentenceTransformer:
    """The settings' model as sentence-transformers and peft are documented.

    `upcast`: by `prepare_model_for_kbit_training`, to 32 bits what is not in 4.
    """
    encoder, device = settings.encoder, device_of(settings)
    dtype = compute_dtype(encoder.compute_dtype, device)
    quantization = quantization_config(encoder.quantization, dtype)
    named = {"quantization_config": quantization, "device_map": {"": device}}
    with quiet():
        model = SentenceTransformer(local_name(encoder.student), model_kwargs=named)
    if encoder.student_layers:
        del model[0].model.layers[encoder.student_layers :]
    model.max_seq_length = encoder.max_length
    if upcast:
        model[0].model = prepare_model_for_kbit_training(
            model[0].model, gradient_checkpointing_kwargs={"use_reentrant": False}
        )
    adapters = LoraConfig(
        r=encoder.lora_r, lora_alpha=encoder.lora_alpha,
        lora_dropout=encoder.lora_dropout, target_modules="all-linear",
    )  # fmt: skip
    model.add_adapter(adapters)
    keep_differentiable(model)
    return model


def peer_columns(batch: Batch) -> Dataset:
    """The batch's rows as the peer reads them: anchor, positive, negatives."""
    count = len(batch.instances)
    queries = [instance.query for instance in batch.instances]
    columns = {"anchor": queries, "positive": batch.documents[:count]}
    negatives = np.reshape(batch.documents[count:], (count, -1)).T.tolist()
    named = {f"negative_{n}": texts for n, texts in enumerate(negatives)}
    return Dataset.from_dict(columns | named)


def peer_seconds(
    model: SentenceTransformer, batch: Batch, settings: Settings, cached: bool, steps=1
) -> list[float]:
    """Seconds of each step of the library's own trainer, all on one batch.

    `cached`: with its GradCache, in the settings' mini-batches.
    """
    chosen, device, ticks = settings.training, model.device.type, []
    clock = TrainerCallback()  # an epoch is one step: it is collated, then taken
    clock.on_epoch_begin = lambda *given, **named: ticks.append(time.perf_counter())
    clock.on_step_end = clock.on_epoch_begin
    bf16 = compute_dtype(settings.encoder.compute_dtype, device) == torch.bfloat16
    kind, scale = losses.MultipleNegativesRankingLoss, 1 / chosen.temperature
    if cached:
        size = chosen.mini_batch
        kind = partial(losses.CachedMultipleNegativesRankingLoss, mini_batch_size=size)
    with tempfile.TemporaryDirectory() as folder:
        arguments = training_args.SentenceTransformerTrainingArguments(
            folder, max_steps=steps, per_device_train_batch_size=chosen.batch_size,
            learning_rate=chosen.learning_rate, seed=settings.seed, bf16=bf16,
            optim={"adamw": "adamw_torch"}.get(chosen.optimizer, chosen.optimizer),
            gradient_checkpointing=settings.encoder.gradient_checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": False},
            use_cpu=device == "cpu", dataloader_pin_memory=False, disable_tqdm=True,
            save_strategy="no", logging_strategy="no", report_to="none",
        )  # fmt: skip
        given = model, arguments, peer_columns(batch)
        also = {"loss": kind(model, scale=scale), "callbacks": [clock]}
        trainer.SentenceTransformerTrainer(*given, **also).train()
    return [end - begin for begin, end in zip(ticks[::2], ticks[1::2], strict=True)]


def step_row(name: str = "step_vs_st", kinds=(False, True), **changes: Any) -> Row:
    """Seconds of a step; peer: the library's trainer with the faster of its losses.

    `kinds`: which of them take part, plain (False) and cached (True).
    """
    settings = student_settings(**changes)
    made, model = turns(settings), peer_model(settings)
    step = our_steps(settings, made)

    def peer(cached: bool) -> Callable[[], float]:
        coming = iter(made)
        return lambda: peer_seconds(model, next(coming), settings, cached)[0]

    (value,), *others = in_turn([lambda: step().seconds, *map(peer, kinds)], ROUNDS)
    return row(name, value, "s", min(seconds for (seconds,) in others))


def cached_settings(cached: bool) -> Settings:
    """Plain steps in one piece, or cached ones in mini-batches an eighth of it."""
    size = 3 * 32 // 8 if cached else 3 * 32
    return student_settings(gradient_cache=cached, mini_batch=size, mini_batch_tokens=0)


def memory_of_step(cached: bool) -> float:
    """MB that a step needs at its peak beyond what stood before it, in this process."""
    settings = cached_settings(cached)
    step = our_steps(settings, turns(settings, 1))
    step()
    return step().more


def rows(out: str) -> list[Row]:
    """The suite `training`: GradCache beside plain steps, limits in tokens beside none.

    The library's plain loss stands for both in the language model's row: there its
    cached one took an eighth more or worse on every batch tried.
    """
    language_model = {"student": SMOLLM2, "batch_size": 24, "mixing": "hybrid"}
    found = [step_row(), step_row("step_vs_st_llm", [False], **language_model)]
    memory, whole = (in_process(memory_of_step, cached) for cached in (True, False))
    found.append(row("gradcache_memory", memory, "MB", whole))
    pairs = {"gradcache_time": (cached_settings(True), cached_settings(False))}
    for name, cached in ("token_budget", False), ("token_budget gradcache", True):
        usual = student_settings(gradient_cache=cached)
        pairs[name] = usual, usual.changed(mini_batch_tokens=0)
    for name, pair in pairs.items():
        steps = (our_steps(settings, turns(settings)) for settings in pair)
        found.append(timed_row(name, *steps, ROUNDS))
    return found
