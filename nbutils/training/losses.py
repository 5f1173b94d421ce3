"""The contrastive loss, and which texts of a batch must not count as negatives."""

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


def causal_neg(
    queries: Tensor, documents: Tensor, own: Tensor, synthetic: Tensor
) -> Tensor:
    """CausalNeg's penalty on generated negatives (arXiv 2606.01304), a scalar.

    Over a query's own negatives p = softmax(cosine / 0.1), m is the synthetic ones'
    mass in p and q is p among them: (m − their share of the negatives)² − entropy(q).
    Only their scores get a gradient. `own` (queries, documents) says whose negative a
    document is, `synthetic` (documents,) its source. The term is as read first-hand in
    the authors' repository; its mean over the batch, 0 where a query has none, is ours.
    """
    terms = queries.new_zeros(len(queries))
    for row, mine in enumerate(own):
        made = synthetic[mine]
        if made.any():
            scores = documents[mine] @ queries[row] / 0.1
            p = torch.where(made, scores, scores.detach()).softmax(0)[made]
            entropy = torch.special.entr(p / p.sum()).sum()
            terms[row] = (p.sum() - made.float().mean()) ** 2 - entropy
    return terms.mean()


@torch.no_grad()
def source_shares(scores: Tensor, synthetic: Tensor) -> dict[str, float]:
    """What part of the negatives' gradient falls on synthetic, and on retrieved ones.

    `scores` (queries, documents) are InfoNCE's, over temperature, −inf where excluded:
    its derivative by that of negative j of query i is p_ij, so parts are of the sum of
    p; other queries' positives have the rest. nan where nothing is a negative.
    """
    p, count = scores.softmax(-1).fill_diagonal_(0).sum(0), len(scores)
    parts = {"synthetic": p[synthetic], "retrieved": p[count:][~synthetic[count:]]}
    return {f"share_{k}": (v.sum() / p.sum()).item() for k, v in parts.items()}


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
