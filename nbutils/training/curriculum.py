"""Which negatives a step trains on, and in which order.

Levels and schedules are Negative Matters'; direct and hybrid mixing and their ratio are
SyNeg's. Everything random follows from (seed, query, step), never from the order of
calls, so a run's place in the data is the number of its step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nbutils.core.errors import LabError, nearest
from nbutils.core.fields import Settings
from nbutils.core.records import LEVELS, TrainingInstance

MIXINGS = ("synthetic", "retrieved", "direct", "hybrid")
ALL = "all"
"""The level of a step that sees every level at once."""
RETRIEVAL = "retrieval"
"""The level of a step of the retrieval phase: retrieved negatives only."""
KNOWN = ("labelled", "all")
"""Which positives count as known; see `right_answers`."""
RETRIEVAL_INSTRUCTION = "Given a query, retrieve the passage that answers it"


def level_order(schedule: str, steps_per_level: int, seed: int = 0) -> list[str]:
    """The level of every step, 4 × `steps_per_level` in all.

    `curriculum` goes from coarse to fine, N4 first (Negative Matters, curriculum);
    `reverse` from fine to coarse; `random` shuffles the same steps; `fixed-k` stays on
    one level; `all` has every level in every step. Raises LabError for another name.
    """
    fine_to_coarse = [level for level in LEVELS for _ in range(steps_per_level)]
    orders = {
        "curriculum": fine_to_coarse[::-1],
        "reverse": fine_to_coarse,
        "random": list(np.random.default_rng(seed).permutation(fine_to_coarse)),
        **{f"fixed-{k}": [f"N{k}"] * len(fine_to_coarse) for k in (1, 2, 3, 4)},
        "all": ["all"] * len(fine_to_coarse),
    }
    if schedule not in orders:
        raise LabError(f"unknown schedule {schedule!r}{nearest(schedule, orders)}")
    return [str(level) for level in orders[schedule]]


@dataclass(frozen=True)
class Step:
    """What one step trains on: its level and the rows of its instances."""

    level: str
    rows: np.ndarray


def plan(data: Sequence[TrainingInstance], settings: Settings) -> list[Step]:
    """Every step of a run, from settings and data alone.

    The levels of the schedule come first, on all instances, then `retrieval_steps` on
    the instances without levels (retrieval items), with retrieved negatives only: the
    synthetic and the retrieval phase. `batches_from` keeps the instances of a batch
    within one data set or task.
    """
    order = level_order(
        settings.training.schedule, settings.training.steps_per_level, settings.seed
    )
    size, seed = settings.training.batch_size, settings.seed
    names = [source_of(instance, settings.training.batches_from) for instance in data]
    chosen = batches(len(data), size, len(order), seed, sources=names)
    steps = [Step(level, rows) for level, rows in zip(order, chosen, strict=True)]
    if settings.training.retrieval_steps:
        kept = np.array([i for i, instance in enumerate(data) if not instance.graded])
        names = [names[i] for i in kept]
        later = batches(
            len(kept), size, settings.training.retrieval_steps, seed, sources=names
        )
        steps += [Step(RETRIEVAL, kept[rows]) for rows in later]
    return steps


def source_of(instance: TrainingInstance, batches_from: str) -> str:
    """What the instances of one batch share: `all`, a `dataset` or a `task`."""
    names = {
        "all": "",
        "dataset": instance.dataset,
        "task": f"{instance.dataset}: {instance.instruction}",
    }
    return names[batches_from]


def batches(
    count: int,
    batch_size: int,
    steps: int,
    seed: int,
    sources: Sequence[str] | None = None,
) -> list[np.ndarray]:
    """Positions of the instances of every step: `steps` arrays of `batch_size`.

    Every epoch is a fresh shuffle; no instance stands twice in a batch. With `sources`
    (one name an instance) a batch is of one source; a source smaller than a batch gives
    one batch of all it has. LabError if there are fewer instances than a batch holds.
    """
    if count < batch_size:
        raise LabError(
            f"{count} training instances are fewer than a batch of {batch_size}: "
            "lower batch_size"
        )
    names = np.array(sources if sources is not None else [""] * count)
    chosen: list[np.ndarray] = []
    epoch = 0
    while len(chosen) < steps:
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(count)
        made = []
        for name in np.unique(names):
            made += _cut(order[names[order] == name], batch_size)
        if len(np.unique(names)) > 1:
            made = [made[i] for i in rng.permutation(len(made))]
        chosen.extend(made)
        epoch += 1
    return chosen[:steps]


def _cut(order: np.ndarray, size: int) -> list[np.ndarray]:
    """Whole batches of one source; all of it where it is smaller than a batch."""
    if len(order) < size:
        return [order]
    whole = len(order) // size
    return list(order[: whole * size].reshape(whole, size))


def negatives_for(
    instance: TrainingInstance,
    level: str,
    *,
    mixing: str = "hybrid",
    retrieved: int = 2,
    ratio: float = 0.0,
    seed: int = 0,
    step: int = 0,
) -> list[str]:
    """The explicit negatives of one instance at one step.

    `hybrid`: one synthetic negative and `retrieved` retrieved ones in every instance;
    `direct`: all of them synthetic in one instance, all retrieved in another, drawn
    once per query (SyNeg, mixing); `synthetic` and `retrieved`: one kind only. The
    synthetic one is the graded one of `level`, for an instance without levels one of
    SyNeg's; at level `all` every one there is.

    A `ratio` R above 0 gives every instance 1 + `retrieved` negatives in every mixing,
    R synthetic ones for each retrieved one: on average over steps in `hybrid`, over
    instances in `direct` (that R is this ratio is our reading of SyNeg). Where a kind
    has fewer texts than asked for, they repeat, and weigh as often in the loss.
    """
    if mixing not in MIXINGS:
        raise LabError(f"unknown mixing {mixing!r}{nearest(mixing, MIXINGS)}")
    kind = "retrieved" if level == RETRIEVAL else mixing
    if kind == "direct":
        share = ratio / (1 + ratio) if ratio else 1 / (1 + retrieved)
        drawn = generator(seed, instance.id).random() < share
        kind = "synthetic" if drawn else "retrieved"
    rng = generator(seed, instance.id, step)
    pool = _synthetic(instance, level)
    if ratio:
        counts = _counts(kind, 1 + retrieved, ratio, rng)
    else:
        written = len(pool) if level == ALL else 1
        counts = {
            "synthetic": (written, 0),
            "retrieved": (0, min(retrieved, len(instance.retrieved))),
            "hybrid": (written, min(retrieved, len(instance.retrieved))),
        }[kind]
    return _draw(pool, counts[0], rng) + _draw(instance.retrieved, counts[1], rng)


def _counts(kind: str, total: int, ratio: float, rng) -> tuple[int, int]:
    """How many synthetic and retrieved negatives make up `total` at a ratio."""
    shares = {"synthetic": 1.0, "retrieved": 0.0, "hybrid": ratio / (1 + ratio)}
    wanted = total * shares[kind]
    synthetic = int(wanted) + int(rng.random() < wanted % 1)
    return synthetic, total - synthetic


def _draw(pool: Sequence[str], count: int, rng) -> list[str]:
    """`count` texts of a pool; none comes again before every one was drawn."""
    chosen: list[str] = []
    while pool and len(chosen) < count:
        part = min(count - len(chosen), len(pool))
        chosen += [pool[int(i)] for i in rng.choice(len(pool), part, replace=False)]
    return chosen


def _synthetic(instance: TrainingInstance, level: str) -> list[str]:
    if not instance.graded or level == RETRIEVAL:
        return list(instance.synthetic)
    levels = LEVELS if level == ALL else [level]
    return [instance.graded[level] for level in levels]


def generator(seed: int, query_id: str, step: int = -1) -> np.random.Generator:
    """The one generator of a (seed, query, step)."""
    digest = hashlib.sha256(query_id.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8]), step + 1])
