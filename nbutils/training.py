"""Contrastive training of the 4-bit student: the loss, the step, the run.

The loss and the step are the papers'; devices, autocast and 4-bit arithmetic are the
libraries'.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor
from tqdm import tqdm

from nbutils.curriculum import batches, level_order, negatives_for
from nbutils.errors import LabError
from nbutils.records import TrainingInstance
from nbutils.settings import Settings
from nbutils.text import normalise


def info_nce(
    queries: Tensor,
    documents: Tensor,
    excluded: Tensor,
    temperature: float,
) -> Tensor:
    """InfoNCE over in-batch and explicit negatives (Negative Matters, SyNeg).

    `queries` is (batch, dim), `documents` (batch + negatives, dim), unit vectors;
    document i is the positive of query i, every other document is a negative of it
    unless `excluded` (batch, batch + negatives) is true there. A negative that stands
    twice weighs twice. Returns the mean loss, a scalar.
    """
    scores = queries @ documents.T / temperature
    scores = scores.masked_fill(excluded, -torch.inf)
    target = torch.arange(len(queries), device=queries.device)
    return torch.nn.functional.cross_entropy(scores, target)


def false_negatives(batch: Sequence[TrainingInstance], documents: Sequence[str]):
    """Which documents must not serve as a query's negative: (batch, documents) bool.

    A document that says the same as the query's positive, or as the query itself,
    after normalisation (peers count up to 93 % of rows with such a collision). The
    positive's own place stays.
    """
    written = np.array([normalise(text) for text in documents])
    excluded = np.zeros((len(batch), len(documents)), dtype=bool)
    for i, instance in enumerate(batch):
        own = [normalise(instance.positive), normalise(instance.query)]
        excluded[i] = np.isin(written, own)
        excluded[i, i] = False
    return torch.from_numpy(excluded)


@dataclass
class Batch:
    """One step's texts: queries with instructions, positives first in `documents`."""

    instances: list[TrainingInstance]
    documents: list[str]
    excluded: Tensor
    level: str


def make_batch(
    chosen: Sequence[TrainingInstance], level: str, settings: Settings, step: int
) -> Batch:
    """The texts of one step, by the settings' mixing."""
    explicit = [
        text
        for instance in chosen
        for text in negatives_for(
            instance,
            level,
            mixing=settings.mixing,
            retrieved=settings.retrieved_per_query,
            seed=settings.seed,
            step=step,
        )
    ]
    documents = [instance.positive for instance in chosen] + explicit
    return Batch(list(chosen), documents, false_negatives(chosen, documents), level)


def token_vectors(
    model: SentenceTransformer,
    texts: Sequence[str],
    prompts: Sequence[str],
    chunk: int,
) -> Tensor:
    """Unit vectors (texts, dim) with gradient; equal texts are encoded once.

    Texts of similar length go through the model together, `chunk` at a time, so that
    little is padded. A prompt is an instruction, "" for none.
    """
    pairs = list(dict.fromkeys(zip(prompts, texts, strict=True)))
    pairs.sort(key=lambda pair: (pair[0], len(pair[1])))
    if model[0].text_format == "plain":
        pairs.sort(key=lambda pair: len(pair[1]))
    vectors = []
    for prompt, group in _runs(pairs, chunk, model[0].text_format != "plain"):
        features = model.preprocess(group, prompt=prompt or None)
        features = {key: value.to(model.device) for key, value in features.items()}
        vectors.append(model(features)["sentence_embedding"])
    place = {pair: i for i, pair in enumerate(pairs)}
    order = [place[pair] for pair in zip(prompts, texts, strict=True)]
    return torch.cat(vectors)[order]


def _runs(pairs, chunk: int, split_prompts: bool):
    """Consecutive (prompt, texts) of at most `chunk` texts that share one prompt."""
    start = 0
    while start < len(pairs):
        stop = start + 1
        while (
            stop < len(pairs)
            and stop - start < chunk
            and (not split_prompts or pairs[stop][0] == pairs[start][0])
        ):
            stop += 1
        yield pairs[start][0], [text for _, text in pairs[start:stop]]
        start = stop


def batch_loss(model: SentenceTransformer, batch: Batch, settings: Settings) -> Tensor:
    """InfoNCE of one batch. Instructions go on queries only (E5-mistral)."""
    count = len(batch.instances)
    prompted = settings.text_format != "plain"
    prompts = [i.instruction if prompted else "" for i in batch.instances]
    vectors = token_vectors(
        model,
        [i.query for i in batch.instances] + batch.documents,
        prompts + [""] * len(batch.documents),
        chunk=settings.mini_batch,
    )
    excluded = batch.excluded.to(vectors.device)
    return info_nce(vectors[:count], vectors[count:], excluded, settings.temperature)


def learning_rate_at(step: int, steps: int, warmup: int) -> float:
    """Share of the peak rate: linear warm-up, then linear decay to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return (steps - step) / max(1, steps - warmup)


@dataclass
class TrainingLog:
    """What a run leaves: one row a step, one row an evaluation."""

    steps: list[dict] = field(default_factory=list)
    evaluations: list[dict] = field(default_factory=list)

    def frames(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """(steps, evaluations) as tables."""
        return pd.DataFrame(self.steps), pd.DataFrame(self.evaluations)


def train(
    model: SentenceTransformer,
    data: Sequence[TrainingInstance],
    settings: Settings,
    *,
    evaluate: Callable[[SentenceTransformer], dict[str, float]] | None = None,
    progress: bool = True,
) -> TrainingLog:
    """Train the adapters of `model` in place by the settings' schedule.

    `evaluate` is called before the first step and after the last step of each level's
    run of `steps_per_level`. Raises LabError for a loss that is not finite and for
    adapters that get no gradient at the first step.
    """
    levels = level_order(settings.schedule, settings.steps_per_level, settings.seed)
    order = batches(len(data), settings.batch_size, len(levels), settings.seed)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = make_optimizer(parameters, settings)
    log = TrainingLog()
    _evaluate(log, model, evaluate, 0, "start")
    bar = tqdm(levels, disable=not progress, desc="training", mininterval=5)
    torch.manual_seed(settings.seed)
    for step, level in enumerate(bar):
        began = time.perf_counter()
        rate = settings.learning_rate * learning_rate_at(
            step, len(levels), settings.warmup_steps
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = make_batch([data[i] for i in order[step]], level, settings, step)
        loss, norm = training_step(model, batch, optimizer, settings)
        check_step(step, loss, norm)
        log.steps.append(
            {
                "step": step + 1,
                "level": level,
                "loss": loss,
                "gradient_norm": norm,
                "learning_rate": rate,
                "seconds": time.perf_counter() - began,
            }
        )
        bar.set_postfix(level=level, loss=f"{loss:.3f}")
        if (step + 1) % settings.steps_per_level == 0:
            _evaluate(log, model, evaluate, step + 1, level)
    model.eval()
    return log


def training_step(
    model: SentenceTransformer,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    settings: Settings,
) -> tuple[float, float]:
    """One step; returns the loss and the adapters' gradient norm (before it)."""
    model.train()
    optimizer.zero_grad()
    loss = batch_loss(model, batch, settings)
    loss.backward()
    parameters = [p for g in optimizer.param_groups for p in g["params"]]
    norm = torch.nn.utils.get_total_norm(
        [p.grad for p in parameters if p.grad is not None]
    )
    optimizer.step()
    return loss.item(), float(norm)


def check_step(step: int, loss: float, norm: float) -> None:
    """LabError for a step that cannot have trained anything."""
    if not math.isfinite(loss) or not math.isfinite(norm):
        raise LabError(
            f"the loss is not finite at step {step + 1}: lower learning_rate or "
            "raise temperature"
        )
    if step == 0 and norm == 0:
        raise LabError(
            "the adapters get no gradient at the first step: nothing would be trained"
        )


def make_optimizer(parameters: list[Tensor], settings: Settings):
    """AdamW, or bitsandbytes' paged 8-bit AdamW on a GPU (QLoRA)."""
    options = {"lr": settings.learning_rate, "weight_decay": settings.weight_decay}
    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **options)
    if parameters[0].device.type != "cuda":
        raise LabError("paged_adamw_8bit needs a GPU: use --set optimizer=adamw")
    from bitsandbytes.optim import PagedAdamW8bit

    return PagedAdamW8bit(parameters, **options)


def _evaluate(log, model, evaluate, step: int, level: str) -> None:
    if evaluate is None:
        return
    model.eval()
    log.evaluations.append({"step": step, "level": level, **evaluate(model)})
