"""Pooling weights that sum to one, on left and right padding alike."""

import pytest
import torch

from nbutils.core.errors import LabError
from nbutils.encoder.pooling import ata_weights, token_weights

RECEIVED = torch.tensor([[2.0, 1, 1, 9], [9, 2, 1, 1]])


def test_ata_by_hand():
    # Two tokens, one head; the second receives 0.8 and 0.6, K is 2.
    attention = torch.tensor([[[[0.2, 0.8], [0.4, 0.6]]]], dtype=torch.float64)
    weights = ata_weights(attention, torch.ones(1, 2))
    first = torch.log1p(torch.tensor([0.4, 0.8])).sum()
    second = torch.log1p(torch.tensor([1.6, 1.2])).sum()
    assert torch.allclose(weights[0, 1], (second / (first + second)).double())


@pytest.mark.parametrize(
    ("mode", "wanted"),
    [
        ("mean", [1 / 3, 1 / 3, 1 / 3]),
        ("last", [0, 0, 1]),
        ("first", [1, 0, 0]),
        ("weighted_mean", [1 / 6, 2 / 6, 3 / 6]),
        ("ata", [1 / 2, 1 / 4, 1 / 4]),
    ],
)
def test_weights_sum_to_one_and_skip_the_padding_of_either_side(mode, wanted):
    mask = torch.tensor([[1, 1, 1, 0], [0, 1, 1, 1]])
    found = token_weights(mode, mask, RECEIVED)
    assert torch.allclose(found, torch.tensor([[*wanted, 0.0], [0.0, *wanted]]))


def test_errors_name_the_fault():
    with pytest.raises(LabError, match="no token left"):
        token_weights("mean", torch.zeros(1, 3))
    with pytest.raises(LabError, match="did you mean 'mean'"):
        token_weights("men", torch.ones(1, 3))
    with pytest.raises(LabError, match="needs the attention"):
        token_weights("ata", torch.ones(1, 3))
