"""The loss against sentence-transformers' own, and what it leaves out."""

import numpy as np
import pytest
import torch
from sentence_transformers.sentence_transformer import losses as peer
from torch.nn.functional import normalize
from training.made import instance

from nbutils.core.settings import resolve
from nbutils.training.losses import (
    causal_neg,
    contrastive_loss,
    false_negatives,
    info_nce,
    source_shares,
)

BOTH_WAYS = ("query_to_doc", "doc_to_query")


def vectors(seed: int = 0) -> list[torch.Tensor]:
    """Queries, positives and one negative each, with gradient: 4 × 6."""
    torch.manual_seed(seed)
    return [normalize(torch.randn(4, 6), dim=-1).requires_grad_() for _ in range(3)]


def training(temperature: float, symmetric: bool):
    changes = {"temperature": temperature, "symmetric": symmetric}
    return resolve(overrides=changes).training


def test_a_repeated_negative_weighs_twice():
    documents = torch.eye(4)[[0, 1, 2, 2]]
    nothing = torch.zeros(1, 4, dtype=torch.bool)
    once = info_nce(torch.eye(4)[:1], documents[:3], nothing[:, :3], 1.0)
    twice = info_nce(torch.eye(4)[:1], documents, nothing, 1.0)
    e = np.e
    assert once.item() == pytest.approx(np.log((e + 2) / e))
    assert twice.item() == pytest.approx(np.log((e + 3) / e))


@pytest.mark.parametrize("symmetric", [False, True])
def test_loss_and_gradients_are_those_of_sentence_transformers(symmetric):
    nothing = torch.zeros(4, 8, dtype=torch.bool)
    ours, theirs = vectors(), vectors()
    asked = training(0.05, symmetric)
    loss = contrastive_loss(ours[0], torch.cat(ours[1:]), nothing, asked)
    directions = BOTH_WAYS if symmetric else ("query_to_doc",)
    reference = peer.MultipleNegativesRankingLoss(
        None, scale=20.0, directions=directions, partition_mode="per_direction"
    )
    wanted = reference.compute_loss_from_embeddings(theirs, None)
    loss.backward()
    wanted.backward()
    assert loss.item() == pytest.approx(wanted.item(), rel=1e-5)
    for a, b in zip(ours, theirs, strict=True):
        # a unit vector has no gradient along itself under their cosine
        own = a.grad - (a.grad * a).sum(-1, keepdim=True) * a
        assert torch.allclose(own, b.grad, atol=1e-5)


def test_an_excluded_pair_counts_in_neither_direction():
    queries, positives, negatives = (v.detach() for v in vectors())
    documents = torch.cat([positives, negatives])
    excluded = torch.zeros(4, 8, dtype=torch.bool)
    excluded[0, 1] = True
    loss = contrastive_loss(queries, documents, excluded, training(0.5, True))
    scores = queries @ documents.T / 0.5
    forward = scores.masked_fill(excluded, -torch.inf).log_softmax(-1).diagonal()
    back = scores[:, :4].T.clone()
    back[1, 0] = -torch.inf
    back = back.log_softmax(-1).diagonal()
    assert loss.item() == pytest.approx(-(forward.mean() + back.mean()).item() / 2)


def test_what_answers_or_repeats_a_query_is_not_its_negative():
    batch = [
        instance(0, known_positives=("Another answer.",)),
        instance(1, query="Query 0!", positive="Positive  1!"),
        instance(2),
    ]
    documents = [i.positive for i in batch]
    documents += ["another answer", "positive 1", "QUERY 2", "free"]
    assert false_negatives(batch, documents).int().tolist() == [
        [0, 1, 0, 1, 1, 0, 0],
        [1, 0, 0, 1, 1, 0, 0],
        [0, 0, 0, 0, 0, 1, 0],
    ]


def test_causalneg_is_its_definition_and_moves_only_synthetic_negatives():
    # two synthetic and one mined negative of the first query; the second has none
    queries = torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    negatives = torch.tensor([[0.3, 0.0], [0.1, 0.0], [0.2, 0.0]]).requires_grad_()
    documents = torch.cat([queries, negatives])
    own = torch.tensor([[0, 0, 1, 1, 1], [0, 0, 0, 0, 0]], dtype=torch.bool)
    synthetic = torch.tensor([0, 0, 1, 1, 0], dtype=torch.bool)
    term = causal_neg(queries, documents, own, synthetic)
    e3, e1, e2 = np.exp([3, 1, 2])  # cosines over 0.1
    q = np.array([e3, e1]) / (e3 + e1)
    mass = (e3 + e1) / (e3 + e1 + e2)
    wanted = (mass - 2 / 3) ** 2 + (q * np.log(q)).sum()
    assert term.item() == pytest.approx(wanted / 2)  # the mean of two queries
    term.backward()
    assert negatives.grad[:2, 0].abs().min() > 1e-3
    assert negatives.grad[2].tolist() == [0.0, 0.0]


def test_the_sources_shares_are_those_of_the_gradient():
    queries, positives, negatives = vectors()
    documents = torch.cat([positives, negatives])
    excluded = torch.zeros(4, 8, dtype=torch.bool)
    excluded[0, 4] = True
    synthetic = torch.tensor([0, 0, 0, 0, 1, 1, 0, 0], dtype=torch.bool)
    scores = (queries @ documents.T).detach().requires_grad_()
    masked = (scores / 0.2).masked_fill(excluded, -torch.inf)
    nll = torch.nn.functional.cross_entropy(masked, torch.arange(4))
    pull = torch.autograd.grad(nll, scores)[0].fill_diagonal_(0).sum(0)
    wanted = [pull[4:6].sum() / pull.sum(), pull[6:].sum() / pull.sum()]
    found = source_shares(masked.detach(), synthetic)
    assert [*found] == ["share_synthetic", "share_retrieved"]
    assert [*found.values()] == pytest.approx([float(value) for value in wanted])
