"""The loss object against sentence-transformers' own, and what it must leave out."""

import pytest
import torch
from sentence_transformers.sentence_transformer import losses as peer
from torch.nn.functional import normalize

from nbutils.core.records import TrainingInstance
from nbutils.core.settings import resolve
from nbutils.training.losses import ContrastiveLoss, false_negatives

BOTH_WAYS = ("query_to_doc", "doc_to_query")


def vectors(seed: int = 0) -> list[torch.Tensor]:
    """Queries, positives and one negative each, with gradient: 4 × 6."""
    torch.manual_seed(seed)
    return [normalize(torch.randn(4, 6), dim=-1).requires_grad_() for _ in range(3)]


@pytest.mark.parametrize("symmetric", [False, True])
def test_loss_and_gradients_are_those_of_sentence_transformers(symmetric):
    nothing = torch.zeros(4, 8, dtype=torch.bool)
    ours, theirs = vectors(), vectors()
    loss = ContrastiveLoss(0.05, symmetric)(ours[0], torch.cat(ours[1:]), nothing)
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


def test_the_settings_choose_the_loss():
    settings = resolve(overrides={"temperature": 0.1, "symmetric": True})
    assert ContrastiveLoss.of(settings) == ContrastiveLoss(0.1, True)
    assert ContrastiveLoss.of(resolve()) == ContrastiveLoss(
        resolve().training.temperature
    )


def test_an_excluded_pair_counts_in_neither_direction():
    queries, positives, negatives = (v.detach() for v in vectors())
    documents = torch.cat([positives, negatives])
    excluded = torch.zeros(4, 8, dtype=torch.bool)
    excluded[0, 1] = True
    loss = ContrastiveLoss(0.5, symmetric=True)
    before = loss(queries, documents, excluded)
    scores = queries @ documents.T / 0.5
    forward = scores.masked_fill(excluded, -torch.inf).log_softmax(-1).diagonal()
    back = scores[:, :4].T.clone()
    back[1, 0] = -torch.inf
    back = back.log_softmax(-1).diagonal()
    assert before.item() == pytest.approx(-(forward.mean() + back.mean()).item() / 2)


def instance(number: int, **changes) -> TrainingInstance:
    base = {"id": f"q{number}", "dataset": "d", "instruction": "",
            "query": f"query {number}", "positive": f"positive {number}"}  # fmt: skip
    return TrainingInstance(**{**base, **changes})


def test_other_positives_of_a_query_are_not_its_negatives():
    batch = [
        instance(0, known_positives=("Another answer.",)),
        instance(1, query="Query 0!"),
        instance(2),
    ]
    documents = [i.positive for i in batch] + ["another answer", "free"]
    assert false_negatives(batch, documents).tolist() == [
        [False, True, False, True, False],
        [True, False, False, True, False],
        [False, False, False, False, False],
    ]
