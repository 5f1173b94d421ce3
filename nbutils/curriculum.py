"""Which negatives a step trains on, and in which order.

Levels and schedules are Negative Matters'; direct and hybrid mixing are SyNeg's.
Everything random follows from (seed, query, step), never from the order of calls.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd

from nbutils.errors import LabError
from nbutils.records import (
    LEVELS,
    GradedExample,
    RetrievalItem,
    SynegExample,
    TrainingInstance,
)
from nbutils.settings import nearest

MIXINGS = ("synthetic", "retrieved", "direct", "hybrid")
RETRIEVAL_INSTRUCTION = "Given a query, retrieve the passage that answers it"


def level_order(schedule: str, steps_per_level: int, seed: int = 0) -> list[str]:
    """The level of every step, 4 × `steps_per_level` in all.

    `curriculum` goes from coarse to fine, N4 first (Negative Matters, curriculum);
    `reverse` from fine to coarse; `random` shuffles the same steps; `fixed-k` stays on
    one level. Raises LabError for another name.
    """
    fine_to_coarse = [level for level in LEVELS for _ in range(steps_per_level)]
    orders = {
        "curriculum": fine_to_coarse[::-1],
        "reverse": fine_to_coarse,
        "random": list(np.random.default_rng(seed).permutation(fine_to_coarse)),
        **{f"fixed-{k}": [f"N{k}"] * len(fine_to_coarse) for k in (1, 2, 3, 4)},
    }
    if schedule not in orders:
        raise LabError(f"unknown schedule {schedule!r}{nearest(schedule, orders)}")
    return [str(level) for level in orders[schedule]]


def batches(count: int, batch_size: int, steps: int, seed: int) -> list[np.ndarray]:
    """Positions of the instances of every step: `steps` arrays of `batch_size`.

    Every epoch is a fresh shuffle; no instance stands twice in a batch. LabError if
    there are fewer instances than a batch holds.
    """
    if count < batch_size:
        raise LabError(
            f"{count} training instances are fewer than a batch of {batch_size}: "
            "lower batch_size"
        )
    chosen: list[np.ndarray] = []
    epoch = 0
    while len(chosen) < steps:
        order = np.random.default_rng([seed, epoch]).permutation(count)
        whole = len(order) // batch_size
        chosen.extend(order[: whole * batch_size].reshape(whole, batch_size))
        epoch += 1
    return chosen[:steps]


def negatives_for(
    instance: TrainingInstance,
    level: str,
    *,
    mixing: str = "hybrid",
    retrieved: int = 2,
    seed: int = 0,
    step: int = 0,
) -> list[str]:
    """The explicit negatives of one instance at one step.

    `hybrid`: one synthetic negative and `retrieved` retrieved ones in every instance;
    `direct`: all of them synthetic in one instance, all retrieved in another, drawn
    once per query (SyNeg, mixing); `synthetic` and `retrieved`: one kind only. The
    synthetic negative is the graded one of `level`, or for an instance without levels
    one of SyNeg's.
    """
    if mixing not in MIXINGS:
        raise LabError(f"unknown mixing {mixing!r}{nearest(mixing, MIXINGS)}")
    kind = mixing
    if mixing == "direct":
        drawn = generator(seed, instance.id).random() < 1 / (1 + retrieved)
        kind = "synthetic" if drawn else "retrieved"
    rng = generator(seed, instance.id, step)
    chosen: list[str] = []
    if kind in ("synthetic", "hybrid"):
        pool = _synthetic(instance, level)
        chosen += [pool[int(rng.integers(len(pool)))]] if pool else []
    if kind in ("retrieved", "hybrid") and instance.retrieved:
        count = min(retrieved, len(instance.retrieved))
        picks = rng.choice(len(instance.retrieved), count, replace=False)
        chosen += [instance.retrieved[int(i)] for i in picks]
    return chosen


def _synthetic(instance: TrainingInstance, level: str) -> list[str]:
    if instance.graded:
        return [instance.graded[level]]
    return list(instance.synthetic)


def generator(seed: int, query_id: str, step: int = -1) -> np.random.Generator:
    """The one generator of a (seed, query, step)."""
    digest = hashlib.sha256(query_id.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8]), step + 1])


def instances(
    graded: Sequence[GradedExample],
    items: Sequence[RetrievalItem],
    syneg: Sequence[SynegExample],
    mined: pd.DataFrame | None = None,
    *,
    split: str = "train",
) -> list[TrainingInstance]:
    """Training instances of a split: graded examples, then retrieval items.

    `mined` holds `query_id` and `text` of retrieved negatives. Only the items' first,
    labelled positive is used; only SyNeg negatives at the matched level.
    """
    retrieved: dict[str, tuple[str, ...]] = {}
    if mined is not None:
        groups = mined.groupby("query_id", sort=False)["text"]
        retrieved = {query_id: tuple(texts) for query_id, texts in groups}
    written = {s.item_id: s.negatives for s in syneg if s.attribute == "matched"}
    made = [
        TrainingInstance(
            id=example.id,
            dataset=f"mgh/{example.group}",
            instruction=example.task,
            query=example.query,
            positive=example.positive,
            graded=dict(zip(LEVELS, example.negatives, strict=True)),
            retrieved=retrieved.get(example.id, ()),
        )
        for example in graded
        if example.split == split
    ]
    made += [
        TrainingInstance(
            id=item.id,
            dataset="syneg",
            instruction=RETRIEVAL_INSTRUCTION,
            query=item.query,
            positive=item.positives[0],
            synthetic=written.get(item.id, ()),
            retrieved=retrieved.get(item.id, ()),
        )
        for item in items
        if item.split == split
    ]
    return made
