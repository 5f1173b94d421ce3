"""Pooling weights that sum to one, on left and right padding alike."""

import pytest
import torch

from nbutils.core.errors import LabError
from nbutils.encoder.pooling import POOLINGS, ata_weights, token_weights


def test_ata_by_hand():
    # Two tokens, one head; the second receives 0.8 and 0.6, K is 2.
    attention = torch.tensor([[[[0.2, 0.8], [0.4, 0.6]]]], dtype=torch.float64)
    weights = ata_weights(attention, torch.ones(1, 2))
    first = torch.log1p(torch.tensor([0.4, 0.8])).sum()
    second = torch.log1p(torch.tensor([1.6, 1.2])).sum()
    assert torch.allclose(weights[0, 1], (second / (first + second)).double())


@pytest.mark.parametrize("mode", POOLINGS)
def test_weights_sum_to_one_and_skip_the_mask(mode):
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]])
    received = torch.rand(2, 4) + 0.1
    weights = token_weights(mode, mask, received)
    assert torch.allclose(weights.sum(-1), torch.ones(2))
    assert (weights[mask == 0] == 0).all()


def test_last_first_and_weighted_mean_know_both_paddings():
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]])
    assert token_weights("last", mask).argmax(-1).tolist() == [2, 3]
    assert token_weights("first", mask).argmax(-1).tolist() == [0, 1]
    weighted = token_weights("weighted_mean", mask)
    assert torch.allclose(weighted[1], torch.tensor([0, 1, 2, 3]) / 6)


def test_errors_name_the_fault():
    with pytest.raises(LabError, match="no token left"):
        token_weights("mean", torch.zeros(1, 3))
    with pytest.raises(LabError, match="did you mean 'mean'"):
        token_weights("men", torch.ones(1, 3))
