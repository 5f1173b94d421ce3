"""Contrastive training of the 4-bit student: the loss, the step, the run.

The loss and the step are the papers'; devices, autocast and 4-bit arithmetic are the
libraries'.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pandas as pd
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor
from tqdm import tqdm

from nbutils.curriculum import negatives_for, plan
from nbutils.errors import LabError
from nbutils.losses import ContrastiveLoss, false_negatives
from nbutils.records import TrainingInstance
from nbutils.settings import Settings


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
            ratio=settings.synthetic_ratio,
            seed=settings.seed,
            step=step,
        )
    ]
    documents = [instance.positive for instance in chosen] + explicit
    return Batch(list(chosen), documents, false_negatives(chosen, documents), level)


@dataclass
class Chunks:
    """Texts in groups that go through the model together, and the way back.

    `groups` holds (prompt, texts); `order` maps the asked texts to rows of the groups'
    vectors put end to end. Equal texts are one row.
    """

    groups: list[tuple[str, list[str]]]
    order: list[int]


def make_chunks(texts: Sequence[str], prompts: Sequence[str], size: int) -> Chunks:
    """Group texts of one prompt and similar length, at most `size` a group."""
    pairs = list(dict.fromkeys(zip(prompts, texts, strict=True)))
    pairs.sort(key=lambda pair: (pair[0], len(pair[1])))
    groups: list[tuple[str, list[str]]] = []
    for prompt, text in pairs:
        if not groups or groups[-1][0] != prompt or len(groups[-1][1]) == size:
            groups.append((prompt, []))
        groups[-1][1].append(text)
    place = {pair: row for row, pair in enumerate(pairs)}
    return Chunks(groups, [place[pair] for pair in zip(prompts, texts, strict=True)])


def group_vectors(model: SentenceTransformer, group: tuple[str, list[str]]) -> Tensor:
    """Unit vectors (texts, dim) of one group, with gradient where it is enabled."""
    prompt, texts = group
    features = model.preprocess(texts, prompt=prompt or None)
    features = {key: value.to(model.device) for key, value in features.items()}
    return model(features)["sentence_embedding"]


def batch_chunks(batch: Batch, settings: Settings) -> Chunks:
    """A batch's queries, then its documents. Instructions go on queries only."""
    prompted = settings.text_format != "plain"
    queries = [instance.query for instance in batch.instances]
    prompts = [i.instruction if prompted else "" for i in batch.instances]
    prompts += [""] * len(batch.documents)
    return make_chunks(queries + batch.documents, prompts, settings.mini_batch)


def vectors_loss(vectors: Tensor, batch: Batch, settings: Settings) -> Tensor:
    """The loss of a batch from its vectors: queries first, then documents."""
    count = len(batch.instances)
    excluded = batch.excluded.to(vectors.device)
    loss = ContrastiveLoss.of(settings)
    return loss(vectors[:count], vectors[count:], excluded)


def batch_loss(model: SentenceTransformer, batch: Batch, settings: Settings) -> Tensor:
    """InfoNCE of one batch, with the whole batch's activations kept."""
    chunks = batch_chunks(batch, settings)
    vectors = torch.cat([group_vectors(model, group) for group in chunks.groups])
    return vectors_loss(vectors[chunks.order], batch, settings)


def cached_backward(
    model: SentenceTransformer, batch: Batch, settings: Settings
) -> Tensor:
    """The loss, and the gradients of `batch_loss`, with one mini-batch kept at a time.

    GradCache: vectors without activations, the loss's gradient at the vectors, then
    each mini-batch once more with its activations. Random states are replayed, so that
    dropout is the same in both passes.
    """
    chunks = batch_chunks(batch, settings)
    devices = [model.device] if model.device.type == "cuda" else []
    states, first = [], []
    with torch.no_grad():
        for group in chunks.groups:
            states.append(_random_state(devices))
            first.append(group_vectors(model, group))
    vectors = torch.cat(first).requires_grad_()
    loss = vectors_loss(vectors[chunks.order], batch, settings)
    loss.backward()
    parts = vectors.grad.split([len(part) for part in first])
    for group, state, gradient in zip(chunks.groups, states, parts, strict=True):
        with torch.random.fork_rng(devices):
            _set_random_state(state, devices)
            group_vectors(model, group).backward(gradient)
    return loss


def _random_state(devices: list) -> tuple:
    return torch.get_rng_state(), [torch.cuda.get_rng_state(d) for d in devices]


def _set_random_state(state: tuple, devices: list) -> None:
    torch.set_rng_state(state[0])
    for device, value in zip(devices, state[1], strict=True):
        torch.cuda.set_rng_state(value, device)


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
    steps = plan(data, settings)
    if settings.warmup_steps >= len(steps):
        raise LabError(
            f"warmup_steps={settings.warmup_steps} is not below the {len(steps)} steps"
            ": the peak learning rate would never be reached"
        )
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = make_optimizer(parameters, settings)
    log = TrainingLog()
    _evaluate(log, model, evaluate, 0, "start")
    bar = tqdm(steps, disable=not progress, desc="training", mininterval=5)
    torch.manual_seed(settings.seed)
    for step, (level, rows) in enumerate((s.level, s.rows) for s in bar):
        began = time.perf_counter()
        rate = settings.learning_rate * learning_rate_at(
            step, len(steps), settings.warmup_steps
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = make_batch([data[i] for i in rows], level, settings, step)
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
        if (step + 1) % settings.steps_per_level == 0 or step + 1 == len(steps):
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
    if settings.gradient_cache:
        loss = cached_backward(model, batch, settings)
    else:
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
