"""The attention a token receives, against transformers' own matrices."""

import pytest
import torch
from transformers import AutoConfig, AutoModel

from nbutils.encoder.attention import (
    TAPPED,
    Layer,
    attend,
    attention_tap,
    last_attention,
)
from nbutils.encoder.pooling import ata_weights, token_weights
from nbutils.encoder.transformer import make_bidirectional, without_dropout

SHAPE = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64,
    "pad_token_id": 0, "initializer_range": 0.3,
}  # fmt: skip
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
SLIDING = {**GROUPED, "sliding_window": 4}
KINDS = {
    "mistral": ("mistral", {**GROUPED, "sliding_window": None}),
    "mistral, sliding": ("mistral", SLIDING),
    "qwen3": ("qwen3", GROUPED),
    "gemma2, sliding": ("gemma2", {
        **SLIDING, "attn_logit_softcapping": 1.0, "query_pre_attn_scalar": 8,
        "layer_types": ["full_attention", "sliding_attention"],
    }),
    "gemma2, full": ("gemma2", {
        **SLIDING, "attn_logit_softcapping": 1.0, "query_pre_attn_scalar": 8,
        "layer_types": ["sliding_attention", "full_attention"],
    }),
    "gemma3": ("gemma3_text", {
        **SLIDING, "query_pre_attn_scalar": 8,
        "layer_types": ["full_attention", "sliding_attention"],
    }),
    "bert": ("bert", {}),
    "modernbert": ("modernbert", {
        "cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2,
        "local_attention": 8,
    }),
}  # fmt: skip


def made(kind: str, implementation: str, both_ways: bool = True):
    name, shape = KINDS[kind]
    torch.manual_seed(0)
    config = AutoConfig.for_model(name, **SHAPE, **shape)
    without_dropout(config)
    config.use_cache = False
    model = AutoModel.from_config(config, attn_implementation=implementation)
    if both_ways:
        make_bidirectional(model)
    return model.eval()


def inputs(side: str):
    torch.manual_seed(1)
    ids = torch.randint(5, 60, (3, 11))
    mask = torch.ones(3, 11, dtype=torch.long)
    for row, count in enumerate((0, 4, 7)):
        padded = slice(0, count) if side == "left" else slice(11 - count, 11)
        mask[row, padded] = 0
    if side == "none":
        mask[:] = 1
    return {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}


def eager_weights(model, batch):
    matrices = model(**batch, output_attentions=True).attentions[-1]
    return ata_weights(matrices, batch["attention_mask"])


def tapped(model, batch, *, gradient=False, last=True):
    """ATA weights, received attention's graph and hidden states through the tap."""
    mask = batch["attention_mask"]
    with attention_tap(mask, last_attention(model) if last else None) as tap:
        hidden = model(**batch).last_hidden_state
    received = tap.weights(mask, gradient=gradient)
    return token_weights("ata", mask, received), hidden


@pytest.mark.parametrize("side", ["left", "right", "none"])
@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_equal_those_of_eager_matrices(kind, both_ways, side):
    batch = inputs(side)
    eager, ours = made(kind, "eager", both_ways), made(kind, TAPPED, both_ways)
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        wanted = eager_weights(eager, batch)
        hidden = eager(**batch).last_hidden_state
        found = {last: tapped(ours, batch, last=last) for last in (True, False)}
    graph, states = tapped(ours, batch, gradient=True)  # SDPA first, then blocks
    assert graph.requires_grad and states.requires_grad
    assert not tapped(ours, batch)[0].requires_grad
    for weights, states in found.values():
        assert torch.allclose(weights, wanted, atol=1e-4)
        assert torch.allclose(states[real], hidden[real], atol=1e-4)
    assert torch.allclose(graph, wanted, atol=1e-4)
    assert wanted.std(-1).min() > 0.005  # far from the flat vector of a mean


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_equal_those_of_eager_matrices(kind, recompute):
    """Through states and weights, also when activations are computed again."""
    batch, found = inputs("right"), []
    for implementation in ("eager", TAPPED):
        model = made(kind, implementation).train()
        if recompute and implementation == TAPPED:
            model.gradient_checkpointing_enable({"use_reentrant": False})
        if implementation == "eager":
            weights = eager_weights(model, batch)
            hidden = model(**batch).last_hidden_state
        else:
            weights, hidden = tapped(model, batch, gradient=True)
        vector = torch.einsum("bt,btd->bd", weights, hidden)
        vector.square().sum().backward()
        grads = [p.grad for p in model.parameters()]
        found.append([torch.zeros(()) if g is None else g for g in grads])
    largest = max(float(g.abs().max()) for g in found[0])
    assert largest > 1e-2
    for wanted, got in zip(*found, strict=True):
        assert torch.allclose(got, wanted, atol=2e-4 * largest)


def test_the_window_and_the_cap_change_the_weights():
    """Otherwise the cases above would not show that they are handled."""
    batch = inputs("none")
    for kind, name in (("mistral, sliding", "sliding_window"), ("gemma2, full", "cap")):
        model, free = made(kind, TAPPED), made(kind, TAPPED)
        for module in free.modules():
            if hasattr(module, "attn_logit_softcapping"):
                module.attn_logit_softcapping = None
        free.config.sliding_window = 64
        with torch.no_grad():
            bound, loose = (tapped(m, batch)[0] for m in (model, free))
        assert (bound - loose).abs().max() > 1e-3, name


def told(kind: str, mask: torch.Tensor) -> dict:
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
        "capped": {"softcap": 2.0},
    }[kind]


@pytest.mark.parametrize("kind", ["none", "causal", "square", "row", "added", "capped"])
@pytest.mark.parametrize("transform", ["log", "sum", "printed"])
def test_blocks_change_nothing(kind, transform):
    torch.manual_seed(0)
    query, key = torch.randn(2, 4, 37, 8), torch.randn(2, 2, 37, 8)
    mask = torch.ones(2, 37)
    mask[1, :9] = 0
    layer = Layer(query, key, torch.randn(2, 2, 37, 8), **told(kind, mask))
    one_row = 4 * 4 * 37
    whole, *blocks = (
        attend(layer, mask, transform=transform, block_bytes=size * one_row)
        for size in (1000, 1, 3, 37, 40)
    )
    for output, received in blocks:
        assert torch.allclose(output[0], whole[0][0], atol=1e-5)
        assert torch.allclose(output[1, :, 9:], whole[0][1, :, 9:], atol=1e-5)
        assert torch.allclose(received, whole[1], atol=1e-3)
    assert (whole[1][1, :9] == 0).all()


def test_products_stay_in_range_where_all_heads_look_at_one_token():
    query, key = torch.zeros(1, 64, 4096, 1), torch.zeros(1, 64, 4096, 1)
    query[:], key[:, :, 7] = 1.0, 1e4  # all attention on one token
    _, received = attend(Layer(query[:, :, :2], key), torch.ones(1, 4096))
    assert torch.isfinite(received).all()
    assert received[0, 7] == pytest.approx(
        2 * 64 * torch.log1p(torch.tensor(4096.0)).item(), rel=1e-5
    )


def test_transforms_are_what_they_say():
    torch.manual_seed(0)
    layer = Layer(torch.randn(1, 2, 5, 4), torch.randn(1, 2, 5, 4))
    mask = torch.ones(1, 5)
    matrix = layer.probabilities(slice(None), slice(None))
    wanted = {
        "log": torch.log1p(5 * matrix).sum((1, 2)),
        "sum": matrix.sum((1, 2)),
        "printed": torch.log(matrix * 6).sum((1, 2)),
    }
    for transform, value in wanted.items():
        _, received = attend(layer, mask, transform=transform)
        assert torch.allclose(received, value, atol=1e-4), transform


@pytest.mark.parametrize("kind", ["bert", "mistral", "gemma2, full"])
def test_autocast_changes_the_weights_little(kind):
    model, batch = made(kind, TAPPED), inputs("right")
    with torch.no_grad():
        whole, _ = tapped(model, batch)
        with torch.autocast("cpu", torch.bfloat16):
            half, hidden = tapped(model, batch)
    assert half.dtype == torch.float32
    assert (half - whole).abs().max() < 0.03
    assert torch.isfinite(hidden).all()
