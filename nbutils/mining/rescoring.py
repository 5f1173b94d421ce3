"""A cross-encoder reads query and document together (RocketQA, NV-Retriever).

It costs one reading a pair, so it scores only what a cheaper teacher found.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import CrossEncoder

from nbutils.core.errors import LabError
from nbutils.core.settings import Settings
from nbutils.encoder.models import device_of, load_pretrained, weights_sha256
from nbutils.mining.candidates import Candidates


@dataclass(frozen=True)
class Rescorer:
    """A sentence-transformers `CrossEncoder`, or whatever has its `predict`.

    `weights` tells models of the same `name` apart.
    """

    name: str
    model: Any
    weights: str = ""

    def __call__(self, candidates: Candidates) -> Candidates:
        """The same candidates with the model's scores, ranked among themselves by them.

        Positives are scored too, so every ceiling is on the model's scale. LabError for
        scores that are not one finite number a pair.
        """
        found, data = candidates, candidates.data
        there = found.documents >= 0
        query = np.r_[np.nonzero(there)[0], found.positive_query]
        document = np.r_[found.documents[there], found.positive]
        asked, texts = list(data.queries.values()), data.corpus["text"].to_numpy()
        pairs = [(asked[q], texts[d]) for q, d in zip(query, document, strict=True)]
        given = self.model.predict(pairs, show_progress_bar=False)
        given = np.asarray(given, dtype=np.float32)
        if given.shape != (len(pairs),) or not np.isfinite(given).all():
            raise LabError(
                f"{self.name} gave scores of shape {given.shape} for {len(pairs)} "
                "pairs: it must give one finite number a pair"
            )
        scores = np.full(there.shape, -np.inf, dtype=np.float32)
        scores[there], own = np.split(given, [there.sum()])
        name = f"{found.teacher} + {self.name}"
        found = replace(found, teacher=name, scores=scores, positive_score=own)
        found = found.by_score()
        ranks = np.arange(1, there.shape[1] + 1) * (found.documents >= 0)
        return replace(found, ranks=ranks)


def load_rescorer(settings: Settings) -> Rescorer | None:
    """The cross-encoder of `rescore_with` (LabError: not found), None where empty."""
    if not (name := settings.mining.rescore_with):
        return None
    model = load_pretrained(CrossEncoder, name, device=device_of(settings))
    return Rescorer(Path(name).name, model, f"{name} {weights_sha256(name)}")
