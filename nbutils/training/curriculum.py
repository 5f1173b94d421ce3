"""Which negatives a step trains on, and in which order.

Levels and schedules are Negative Matters'; direct and hybrid mixing and their ratio are
SyNeg's. Everything random follows from (seed, query, step), never from the order of
calls, so a run's place in the data is the number of its step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np

from nbutils.core.errors import LabError, nearest
from nbutils.core.fields import Settings
from nbutils.core.records import LEVELS, TrainingInstance

ALL = "all"
"""The level of a step that sees every level at once."""
RETRIEVAL = "retrieval"
"""The level of a step of the retrieval phase: retrieved negatives only."""


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


def plan(
    data: Sequence[TrainingInstance], settings: Settings
) -> list[tuple[str, np.ndarray]]:
    """(level, rows of the instances) of every step, from settings and data alone.

    The schedule's levels come first, on all instances, then `retrieval_steps` on those
    without levels. The instances of a batch share what `batches_from` names.
    """
    chosen, seed = settings.training, settings.seed
    shared = {
        "all": lambda instance: "",
        "dataset": lambda instance: instance.dataset,
        "task": lambda instance: f"{instance.dataset}: {instance.instruction}",
    }[chosen.batches_from]
    sources = np.array([shared(instance) for instance in data])
    levels = level_order(chosen.schedule, chosen.steps_per_level, seed)
    phases = [(levels, np.arange(len(data)))]
    if chosen.retrieval_steps:
        items = np.flatnonzero([not instance.graded for instance in data])
        phases.append(([RETRIEVAL] * chosen.retrieval_steps, items))
    steps = []
    for levels, rows in phases:
        drawn = batches(len(rows), chosen.batch_size, len(levels), seed, sources[rows])
        steps += [(level, rows[own]) for level, own in zip(levels, drawn, strict=True)]
    return steps


def batches(
    count: int, batch_size: int, steps: int, seed: int, sources: Sequence[str] = ()
) -> list[np.ndarray]:
    """Positions of the instances of every step: `steps` arrays of `batch_size`.

    Every epoch is a fresh shuffle. With `sources` (one name an instance) a batch is of
    one source, smaller only where all of a source is. LabError if there are fewer
    instances than a batch holds.
    """
    if count < batch_size:
        raise LabError(
            f"{count} training instances are fewer than a batch of {batch_size}: "
            "lower batch_size"
        )
    source = np.array(sources) if len(sources) else np.full(count, "")
    names = np.unique(source)
    chosen: list[np.ndarray] = []
    epoch = 0
    while len(chosen) < steps:
        rng = np.random.default_rng([seed, epoch])
        order = rng.permutation(count)
        made = []
        for name in names:
            own = order[source[order] == name]
            last = max(len(own) - batch_size, 0)  # where the last whole batch begins
            made += [own[i : i + batch_size] for i in range(0, last + 1, batch_size)]
        if len(names) > 1:
            made = [made[i] for i in rng.permutation(len(made))]
        chosen += made
        epoch += 1
    return chosen[:steps]


def negatives_for(
    instance: TrainingInstance, level: str, settings: Settings, step: int = 0
) -> list[str]:
    """The explicit negatives of one instance at one step (SyNeg, mixing).

    `hybrid`: one synthetic negative and `retrieved_per_query` retrieved ones; `direct`:
    one kind only, drawn once per query; `synthetic`, `retrieved`: that kind only. The
    synthetic one is the graded one of `level`, without levels one of SyNeg's; at level
    `all` every one there is.

    A `synthetic_ratio` R above 0 gives 1 + `retrieved_per_query` negatives, R synthetic
    ones for each retrieved one (our reading of SyNeg): on average over steps in
    `hybrid`, over instances in `direct`. Where a kind has too few texts, they repeat.
    """
    chosen = settings.training
    retrieved, ratio = chosen.retrieved_per_query, chosen.synthetic_ratio
    share = ratio / (1 + ratio) if ratio else 1 / (1 + retrieved)
    kind = "retrieved" if level == RETRIEVAL else chosen.mixing
    if kind == "direct":
        drawn = _generator(settings.seed, instance.id).random() < share
        kind = "synthetic" if drawn else "retrieved"
    rng = _generator(settings.seed, instance.id, step)
    written: Sequence[str] = instance.synthetic
    if instance.graded and level != RETRIEVAL:
        levels = LEVELS if level == ALL else [level]
        written = [instance.graded[name] for name in levels]
    if ratio:
        shares = {"synthetic": 1.0, "retrieved": 0.0, "hybrid": share}
        wanted = (1 + retrieved) * shares[kind]
        synthetic = int(wanted) + int(rng.random() < wanted % 1)
        retrieved = 1 + retrieved - synthetic
    else:
        synthetic = 0 if kind == "retrieved" else len(written) if level == ALL else 1
        fewer = min(retrieved, len(instance.retrieved))
        retrieved = 0 if kind == "synthetic" else fewer
    return _draw(written, synthetic, rng) + _draw(instance.retrieved, retrieved, rng)


def _draw(pool: Sequence[str], count: int, rng: np.random.Generator) -> list[str]:
    """`count` texts of a pool; none comes again before every one was drawn."""
    chosen: list[str] = []
    while pool and len(chosen) < count:
        part = min(count - len(chosen), len(pool))
        chosen += [pool[int(i)] for i in rng.choice(len(pool), part, replace=False)]
    return chosen


def _generator(seed: int, query_id: str, step: int = -1) -> np.random.Generator:
    """The one generator of a (seed, query, step)."""
    digest = hashlib.sha256(query_id.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8]), step + 1])
