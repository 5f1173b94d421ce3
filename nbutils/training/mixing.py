"""Which negatives an instance has at a step: synthetic and retrieved ones (SyNeg).

Everything random follows from (seed, query, step), never from the order of calls, so a
run's place in the data is the number of its step.
"""

import hashlib
from collections.abc import Sequence

import numpy as np

from nbutils.core.records import LEVELS, TrainingInstance
from nbutils.core.settings import Settings

ALL = "all"
"""The level of a step that sees every level at once."""
RETRIEVAL = "retrieval"
"""The level of a step of the retrieval phase: retrieved negatives only."""


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
