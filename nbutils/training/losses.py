"""The contrastive loss, and which texts of a batch must not count as negatives.

One loss object holds the one temperature; the plain and the cached step use the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from nbutils.core.fields import Settings
from nbutils.core.records import TrainingInstance
from nbutils.core.text import normalise


@dataclass(frozen=True)
class ContrastiveLoss:
    """InfoNCE with one temperature, from query to document or both ways.

    Called with `queries` (batch, dim), `documents` (batch + negatives, dim), unit
    vectors, and `excluded` (batch, batch + negatives) bool; returns a scalar.
    `symmetric` takes the mean with the loss of finding each positive's query among the
    batch's queries.
    """

    temperature: float
    symmetric: bool = False

    @classmethod
    def of(cls, settings: Settings) -> ContrastiveLoss:
        """The loss that the settings describe."""
        return cls(settings.training.temperature, settings.training.symmetric)

    def __call__(self, queries: Tensor, documents: Tensor, excluded: Tensor) -> Tensor:
        loss = info_nce(queries, documents, excluded, self.temperature)
        if not self.symmetric:
            return loss
        positives = documents[: len(queries)]
        back = excluded[:, : len(queries)].T
        return (loss + info_nce(positives, queries, back, self.temperature)) / 2


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


def false_negatives(
    batch: Sequence[TrainingInstance], documents: Sequence[str]
) -> Tensor:
    """Which documents must not serve as a query's negative: (batch, documents) bool.

    A document that says the same as one of the query's known positives (its own, those
    of the same query elsewhere in the batch, `known_positives`), or as the query
    itself, after normalisation (peers count up to 93 % of rows with such a collision).
    The positive's own place stays.
    """
    written = np.array([normalise(text) for text in documents])
    queries = [normalise(instance.query) for instance in batch]
    known: dict[str, set[str]] = {query: {query} for query in queries}
    for query, instance in zip(queries, batch, strict=True):
        texts = (instance.positive, *instance.known_positives)
        known[query] |= {normalise(text) for text in texts}
    excluded = np.zeros((len(batch), len(documents)), dtype=bool)
    for i, query in enumerate(queries):
        excluded[i] = np.isin(written, list(known[query]))
        excluded[i, i] = False
    return torch.from_numpy(excluded)
