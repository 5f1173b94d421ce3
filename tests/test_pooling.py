"""Pooling weights, and received attention against transformers' own matrices."""

import pytest
import torch
from transformers import AutoConfig, AutoModel

from nbutils.backbone import make_bidirectional
from nbutils.errors import LabError
from nbutils.pooling import (
    POOLINGS,
    TAPPED,
    ata_weights,
    attention_tap,
    received_attention,
    tapped_weights,
    token_weights,
)

SHAPE = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64,
    "pad_token_id": 0, "initializer_range": 0.3,
}  # fmt: skip
KINDS = {
    "mistral": {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": None},
    "llama": {"num_key_value_heads": 2},
    "qwen2": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    "gemma": {"num_key_value_heads": 1, "head_dim": 8},
    "bert": {},
    "modernbert": {
        "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2,
        "local_attention": 8,
    },
}  # fmt: skip


def made(kind: str, implementation: str):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **SHAPE, **KINDS[kind])
    return AutoModel.from_config(config, attn_implementation=implementation).eval()


def inputs(side: str):
    torch.manual_seed(1)
    ids = torch.randint(5, 60, (3, 11))
    mask = torch.ones(3, 11, dtype=torch.long)
    for row, count in enumerate((0, 4, 7)):
        padded = slice(0, count) if side == "left" else slice(11 - count, 11)
        mask[row, padded] = 0
    return {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_tapped_weights_equal_those_of_eager_matrices(kind, both_ways, side):
    batch = inputs(side)
    eager, tapped = made(kind, "eager"), made(kind, TAPPED)
    if both_ways:
        make_bidirectional(eager)
        make_bidirectional(tapped)
    with torch.no_grad():
        matrices = eager(**batch, output_attentions=True).attentions[-1]
        with attention_tap() as tap:
            tapped(**batch)
    wanted = ata_weights(matrices, batch["attention_mask"])
    got = tapped_weights(tap, batch["attention_mask"], gradient=False)
    got = token_weights("ata", batch["attention_mask"], got)
    assert torch.allclose(got, wanted, atol=1e-4)
    assert wanted.std(-1).min() > 0.01  # far from the flat vector of a mean


def masks(kind: str, mask: torch.Tensor) -> dict:
    """The ways in which a layer may tell what is allowed."""
    batch, length = mask.shape
    square = torch.tril(torch.ones(batch, 1, length, length, dtype=torch.bool))
    row = mask[:, None, None, :].bool()
    return {
        "none": {},
        "causal": {"causal": True},
        "square": {"allowed": square & row},
        "row": {"allowed": row},
        "added": {"allowed": torch.zeros(square.shape).masked_fill(~square, -1e9)},
    }[kind]


@pytest.mark.parametrize("kind", ["none", "causal", "square", "row", "added"])
@pytest.mark.parametrize("rows", [1, 3])
def test_blocks_do_not_change_the_weights(kind, rows):
    torch.manual_seed(0)
    query, key = torch.randn(2, 4, 37, 8), torch.randn(2, 2, 37, 8)
    mask = torch.ones(2, 37)
    mask[1, :9] = 0
    told = masks(kind, mask)
    whole = received_attention(query, key, mask, **told)
    one_row = 4 * 2 * 4 * 37
    pieces = received_attention(query, key, mask, block_bytes=rows * one_row, **told)
    assert torch.allclose(whole, pieces, atol=1e-4)
    assert (whole[1, :9] == 0).all() and (whole[:, 20:] > 0).all()


def test_gradient_flows_only_when_asked():
    model, batch = made("bert", TAPPED), inputs("right")
    for asked in (True, False):
        with attention_tap() as tap:
            model(**batch)
        weights = tapped_weights(tap, batch["attention_mask"], gradient=asked)
        assert weights.requires_grad is asked


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
    with pytest.raises(LabError, match="cannot see this backbone's attention"):
        tapped_weights({}, torch.ones(1, 3), gradient=False)
