"""The contrastive loss, and which texts of a batch must not count as negatives."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from nbutils.core.records import TrainingInstance
from nbutils.core.sections import Training
from nbutils.core.text import normalise


def info_nce(
    queries: Tensor, documents: Tensor, excluded: Tensor, temperature: float
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


def contrastive_loss(
    queries: Tensor, documents: Tensor, excluded: Tensor, training: Training
) -> Tensor:
    """`info_nce` by the settings; `symmetric`: the mean of both directions.

    The way back asks for each positive's query among the batch's queries.
    """
    loss = info_nce(queries, documents, excluded, training.temperature)
    if not training.symmetric:
        return loss
    positives, back = documents[: len(queries)], excluded[:, : len(queries)].T
    return (loss + info_nce(positives, queries, back, training.temperature)) / 2


def false_negatives(
    batch: Sequence[TrainingInstance], documents: Sequence[str]
) -> Tensor:
    """Which documents must not serve as a query's negative: (batch, documents) bool.

    Those that say the same, after normalisation, as the query or one of its known
    positives: its own, those of the same query elsewhere in the batch, and
    `known_positives`. The positive's own place stays.
    """
    written = np.array([normalise(text) for text in documents])
    queries = [normalise(instance.query) for instance in batch]
    known = defaultdict(set)
    for query, instance in zip(queries, batch, strict=True):
        texts = (instance.positive, *instance.known_positives)
        known[query] |= {query, *map(normalise, texts)}
    excluded = np.stack([np.isin(written, list(known[query])) for query in queries])
    np.fill_diagonal(excluded, False)
    return torch.from_numpy(excluded)
