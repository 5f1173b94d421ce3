"""How to mine: the names of the methods and the numbers they take."""

from __future__ import annotations

from dataclasses import dataclass

from nbutils.core.errors import LabError, known
from nbutils.core.fields import Settings

METHODS = ("naive", "shifted", "abs", "margin_pos", "perc_pos")
SELECTIONS = ("top_k", "sampled", "top1_sampled")
ANCHORS = ("min", "max", "mean", "each")
BACKFILLS = ("none", "lowest", "random")


@dataclass(frozen=True)
class Recipe:
    """How to mine. Defaults are NV-Retriever's best settings.

    k negatives a query; `threshold` (abs), `margin`, `perc` are in units of the
    teacher's score, `shift` in ranks. With several positives the `anchor` score is
    their min, max or mean; `each` mines for every positive apart. `sampled` draws k
    from the best `sample_from` that are left, with the softmax of score/`temperature`
    (the paper does not say its temperature; 1 is ours). Where fewer than k are left,
    `backfill` marks what it adds: `none`; `lowest`, the lowest scored of those that the
    method rejected; `random`, documents of the table drawn at random, unscored.
    Raises LabError for an unknown name (naming the nearest) or an impossible number.
    """

    method: str = "perc_pos"
    k: int = 4
    selection: str = "top_k"
    shift: int = 10
    threshold: float = 0.7
    margin: float = 0.05
    perc: float = 0.95
    anchor: str = "min"
    sample_from: int = 10
    temperature: float = 1.0
    seed: int = 0
    backfill: str = "none"

    def __post_init__(self) -> None:
        known("method", self.method, METHODS)
        known("selection", self.selection, SELECTIONS)
        known("anchor", self.anchor, ANCHORS)
        known("backfill", self.backfill, BACKFILLS)
        if self.k < 1:
            raise LabError(f"k is {self.k}: mine at least 1 negative a query")
        if self.shift < 0:
            raise LabError(f"shift is {self.shift}: it counts ranks, 0 or more")
        if self.temperature <= 0:
            raise LabError(f"temperature is {self.temperature}: it must be above 0")
        if self.needed < self.k:
            raise LabError(
                f"sample_from is {self.sample_from}: it must be at least k, {self.k}"
            )

    @classmethod
    def of(cls, settings: Settings, **changes) -> Recipe:
        """The recipe of the settings; `changes` are fields by name."""
        values = {
            "method": settings.mining.mining_method,
            "k": settings.mining.negatives_per_query,
            "shift": settings.mining.shift,
            "threshold": settings.mining.abs_threshold,
            "margin": settings.mining.margin,
            "perc": settings.mining.perc,
            "sample_from": settings.mining.sample_from,
            "seed": settings.seed,
        }
        return cls(**{**values, **changes})

    @property
    def needed(self) -> int:
        """Candidates that must be left for the selection to be what it says."""
        return self.k if self.selection == "top_k" else self.sample_from
