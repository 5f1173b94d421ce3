"""What a training step costs beside sentence-transformers, and what GradCache saves.

Both sides train the same 4-bit backbone with the same adapters, pooling, precision and
batches of recorded texts. `changes` are the settings of another student.
"""

import itertools
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import cache, partial
from statistics import median
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, prepare_model_for_kbit_training
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses, trainer, training_args
from transformers import TrainerCallback

from benchmarks.harness import Row, in_process, in_turn, measured, row, timed_row
from nbutils.core.records import TrainingInstance, read_records
from nbutils.core.sections import MINILM, SMOLLM2
from nbutils.core.settings import Settings, resolve
from nbutils.encoder.models import compute_dtype, device_of, local_name, quiet
from nbutils.encoder.student import build_student
from nbutils.encoder.transformer import keep_differentiable, quantization_config
from nbutils.training import gradcache, instances, loop

STEPS, ROUNDS = 3, 3
"""Steps that are timed in each round after one that is not, and rounds."""
Batches = Sequence[gradcache.Batch]


def student_settings(**changes: Any) -> Settings:
    """The page's student on batches of 32 × (query, positive, one written negative)."""
    usual = {"student": MINILM, "batch_size": 32, "mixing": "synthetic"}
    return resolve(overrides={**usual, "pooling": "mean", **changes})


@cache
def recorded() -> list[TrainingInstance]:
    """Recorded graded examples that have retrieved negatives too."""
    data = instances.training_data(read_records(resolve()))
    return [i for i in data if i.graded and len(i.retrieved) > 1]


def batches(settings: Settings, count: int) -> Batches:
    """`count` batches of recorded training texts, the same in every call."""
    size = settings.training.batch_size
    return [
        gradcache.make_batch(recorded()[n * size :][:size], "N2", settings, n)
        for n in range(count)
    ]


def our_steps(
    settings: Settings, made: Batches, model: SentenceTransformer | None = None
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


def peer_columns(made: Batches) -> Dataset:
    """The batches' rows as the peer reads them: anchor, positive, negatives."""
    rows = []
    for batch in made:
        count = len(batch.instances)
        asked = [instance.query for instance in batch.instances]
        negatives = np.reshape(batch.documents[count:], (count, -1))
        rows += np.c_[asked, batch.documents[:count], negatives].tolist()
    names = ["anchor", "positive", *(f"negative_{n}" for n in range(len(rows[0]) - 2))]
    return Dataset.from_list([dict(zip(names, row, strict=True)) for row in rows])


def peer_seconds(
    model: SentenceTransformer, made: Batches, settings: Settings, cached: bool,
    steps: int = STEPS,
) -> float:  # fmt: skip
    """Median seconds of a step of the library's own trainer, after one not counted.

    `cached`: with its GradCache, in the settings' mini-batches.
    """
    chosen, device, ends = settings.training, model.device.type, []
    clock = TrainerCallback()  # between two ends lie collating and the whole step
    clock.on_step_end = lambda *given, **named: ends.append(time.perf_counter())
    bf16 = compute_dtype(settings.encoder.compute_dtype, device) == torch.bfloat16
    kind, named = losses.MultipleNegativesRankingLoss, {}
    if cached:
        kind = losses.CachedMultipleNegativesRankingLoss
        named["mini_batch_size"] = chosen.mini_batch
    with tempfile.TemporaryDirectory() as folder:
        arguments = training_args.SentenceTransformerTrainingArguments(
            folder, max_steps=steps + 1, per_device_train_batch_size=chosen.batch_size,
            learning_rate=chosen.learning_rate, seed=settings.seed, bf16=bf16,
            optim={"adamw": "adamw_torch"}.get(chosen.optimizer, chosen.optimizer),
            gradient_checkpointing=settings.encoder.gradient_checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": False},
            use_cpu=device == "cpu", dataloader_pin_memory=False, disable_tqdm=True,
            save_strategy="no", logging_strategy="no", report_to="none",
        )  # fmt: skip
        trainer.SentenceTransformerTrainer(
            model, arguments, peer_columns(made), callbacks=[clock],
            loss=kind(model, scale=1 / chosen.temperature, **named),
        ).train()  # fmt: skip
    return median(b - a for a, b in itertools.pairwise(ends))


def step_row(name: str = "step_vs_st", rounds: int = ROUNDS, **changes: Any) -> Row:
    """Seconds of a step; peer: the library's trainer with the faster of its losses."""
    settings = student_settings(**changes)
    made = batches(settings, 4)
    step, model = our_steps(settings, made), peer_model(settings)

    def ours() -> float:
        step()
        return median(step().seconds for _ in range(STEPS))

    peer = partial(peer_seconds, model, made, settings)
    ways = [ours, partial(peer, cached=False), partial(peer, cached=True)]
    (value,), (plain,), (cached,) = in_turn(ways, rounds, warm_up=0)
    return row(name, value, "s", min(plain, cached))


def cached_settings(cached: bool) -> Settings:
    """Plain steps in one piece, or cached ones in mini-batches an eighth of it."""
    size = 3 * 32 // 8 if cached else 3 * 32
    return student_settings(gradient_cache=cached, mini_batch=size, mini_batch_tokens=0)


def memory_of_step(cached: bool) -> float:
    """MB that a step needs at its peak beyond what stood before it, in this process."""
    settings = cached_settings(cached)
    sizes = settings.changed(batch_size=4), settings
    step = our_steps(settings, [batches(of_size, 1)[0] for of_size in sizes])
    step()  # the first step of a process loads libraries and kernels
    return step().more


def gradcache_rows() -> list[Row]:
    """Rows `gradcache_memory` and `gradcache_time`; peer: the plain step."""
    memory, plain = (in_process(memory_of_step, way) for way in (True, False))
    made = batches(student_settings(), 1)
    steps = (our_steps(cached_settings(way), made) for way in (True, False))
    times = timed_row("gradcache_time", *steps, ROUNDS)
    return [row("gradcache_memory", memory, "MB", plain), times]


def token_row(name: str, cached: bool) -> Row:
    """Seconds of a step with mini-batches by tokens; peer: no limit in tokens."""
    usual = student_settings(gradient_cache=cached)
    ways, made = (usual, usual.changed(mini_batch_tokens=0)), batches(usual, 2)
    steps = (our_steps(settings, made) for settings in ways)
    return timed_row(name, *steps, 2 * ROUNDS, warm_up=2)


def rows(out: str) -> list[Row]:
    """The suite `training`."""
    tokens = token_row("token_budget", False), token_row("token_budget gradcache", True)
    language_model = {"student": SMOLLM2, "batch_size": 24, "mixing": "hybrid"}
    llm = step_row("step_vs_st_llm", **language_model)
    return [step_row(), llm, *gradcache_rows(), *tokens]
