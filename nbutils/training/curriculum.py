"""Which level and which instances a step trains on (Negative Matters, curriculum)."""

from collections.abc import Sequence

import numpy as np

from nbutils.core.errors import LabError, known
from nbutils.core.records import LEVELS, TrainingInstance
from nbutils.core.settings import Settings
from nbutils.training.mixing import RETRIEVAL


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
    return [str(level) for level in orders[known("schedule", schedule, orders)]]


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
