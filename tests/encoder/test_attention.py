"""The attention a token receives, against transformers' own matrices."""

import pytest
import torch
from transformers import AutoConfig, AutoModel

from nbutils.encoder import attention
from nbutils.encoder.attention import TAPPED, AttentionTap, Layer, attend
from nbutils.encoder.pooling import ata_weights, token_weights
from nbutils.encoder.transformer import make_bidirectional, without_dropout

SHAPE = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48,
    "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": 64,
    "pad_token_id": 0, "initializer_range": 0.3,
}  # fmt: skip
GROUPED = {"num_key_value_heads": 2, "head_dim": 8}
SLIDING = {**GROUPED, "sliding_window": 4}
SLIDES_LAST = {"layer_types": ["full_attention", "sliding_attention"]}
CAPPED = {**SLIDING, "attn_logit_softcapping": 1.0, "query_pre_attn_scalar": 8}
ENDS = {"cls_token_id": 1, "sep_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
KINDS = {
    "mistral": ("mistral", {**GROUPED, "sliding_window": None}),
    "mistral, sliding": ("mistral", SLIDING),
    "qwen3": ("qwen3", GROUPED),
    "gemma2, sliding": ("gemma2", {**CAPPED, **SLIDES_LAST}),
    "gemma2, full": (
        "gemma2",
        {**CAPPED, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "gemma3": ("gemma3_text", {**SLIDING, **SLIDES_LAST, "query_pre_attn_scalar": 8}),
    "bert": ("bert", {}),
    "modernbert": ("modernbert", {**ENDS, "local_attention": 8}),
}


def made(kind: str, implementation: str = TAPPED, both_ways: bool = True):
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
    for row, count in enumerate((0, 4, 7) if side != "none" else ()):
        mask[row, slice(0, count) if side == "left" else slice(11 - count, 11)] = 0
    return {"input_ids": ids.masked_fill(mask == 0, 0), "attention_mask": mask}


def eager(model, batch):
    """ATA weights by the whole matrices, and hidden states."""
    output = model(**batch, output_attentions=True)
    weights = ata_weights(output.attentions[-1], batch["attention_mask"])
    return weights, output.last_hidden_state


def tapped(model, batch, *, gradient=False, last=True):
    """The same through the tap."""
    mask = batch["attention_mask"]
    layers = attention.attention_layers(model)[-1:] if last else []
    with AttentionTap(mask, *layers) as tap:
        hidden = model(**batch).last_hidden_state
    assert (tap.received is None) == (torch.is_grad_enabled() or not last)
    return token_weights("ata", mask, tap.weights(gradient)), hidden


@pytest.mark.parametrize("side", ["left", "right", "none"])
@pytest.mark.parametrize("both_ways", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_weights_equal_those_of_eager_matrices(kind, both_ways, side):
    batch, ours = inputs(side), made(kind, TAPPED, both_ways)
    real = batch["attention_mask"].bool()
    with torch.no_grad():
        wanted, hidden = eager(made(kind, "eager", both_ways), batch)
        found = [tapped(ours, batch, last=last) for last in (True, False)]
    found.append(tapped(ours, batch, gradient=True))  # SDPA first, then blocks
    assert all(part.requires_grad for part in found[-1])
    assert not tapped(ours, batch)[0].requires_grad
    for weights, states in found:
        assert torch.allclose(weights, wanted, atol=1e-4)
        assert torch.allclose(states[real], hidden[real], atol=1e-4)
    assert wanted.std(-1).min() > 0.005  # far from the flat vector of a mean


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_equal_those_of_eager_matrices(kind, recompute):
    """Through states and weights, also when activations are computed again."""
    batch, theirs, ours = inputs("right"), made(kind, "eager"), made(kind)
    if recompute:
        ours.gradient_checkpointing_enable({"use_reentrant": False})
    found = eager(theirs.train(), batch), tapped(ours.train(), batch, gradient=True)
    for weights, hidden in found:
        torch.einsum("bt,btd->bd", weights, hidden).square().sum().backward()
    wanted, got = (
        [torch.zeros(()) if p.grad is None else p.grad for p in model.parameters()]
        for model in (theirs, ours)
    )
    largest = max(float(grad.abs().max()) for grad in wanted)
    assert largest > 1e-2
    for one, other in zip(wanted, got, strict=True):
        assert torch.allclose(other, one, atol=2e-4 * largest)


@pytest.mark.parametrize("kind", ["mistral, sliding", "gemma2, full"])
@torch.no_grad()
def test_the_window_and_the_cap_change_the_weights(kind):
    """Otherwise the cases above would not show that they are handled."""
    model, free = made(kind), made(kind)
    for module in free.modules():
        if hasattr(module, "attn_logit_softcapping"):
            module.attn_logit_softcapping = None
    free.config.sliding_window = 64
    bound, loose = (tapped(m, inputs("none"))[0] for m in (model, free))
    assert (bound - loose).abs().max() > 1e-3


MASK = torch.ones(2, 37)
MASK[1, :9] = 0
ROW = MASK[:, None, None, :].bool()
LOWER = torch.ones(2, 1, 37, 37, dtype=torch.bool).tril()
TOLD = {
    "none": {},
    "causal": {"causal": True},
    "square": {"allowed": LOWER & ROW},
    "row": {"allowed": ROW},
    "added": {"allowed": torch.zeros(LOWER.shape).masked_fill(~LOWER, -1e9)},
    "capped": {"softcap": 2.0},
}
"""The ways in which a layer may tell what is allowed."""
FORMULAS = {
    "log": lambda a, count: torch.log1p(count * a),
    "sum": lambda a, count: a,
    "printed": lambda a, count: torch.log(a.clamp(min=1e-9) * (count + 1)),
}


@pytest.mark.parametrize("told", TOLD)
@pytest.mark.parametrize("transform", FORMULAS)
def test_blocks_of_any_size_give_what_the_whole_matrix_gives(
    told, transform, monkeypatch
):
    torch.manual_seed(0)
    query, (key, value) = torch.randn(2, 4, 37, 8), torch.randn(2, 2, 2, 37, 8)
    layer = Layer(query, key, value, **TOLD[told])
    every, real = slice(None), MASK.bool()
    matrix = layer.probabilities(every, every)
    count = MASK.sum(-1)[:, None, None, None]
    each = FORMULAS[transform](matrix, count).sum(1)
    wanted = torch.einsum("bji,bj,bi->bi", each, MASK, MASK)
    mixed = (matrix @ value.repeat_interleave(2, 1)).transpose(1, 2)
    for rows in (1000, 1, 3, 37, 40):
        monkeypatch.setitem(attention.BLOCK_BYTES, "cpu", rows * 4 * 4 * 37)
        output, received = attend(layer, MASK, transform)
        assert torch.allclose(output.transpose(1, 2)[real], mixed[real], atol=1e-5)
        assert torch.allclose(received, wanted, atol=1e-3)


def test_products_stay_in_range_where_all_heads_look_at_one_token():
    query, key = torch.zeros(1, 64, 4096, 1), torch.zeros(1, 64, 4096, 1)
    query[:], key[:, :, 7] = 1.0, 1e4  # all attention on one token
    _, received = attend(Layer(query[:, :, :2], key), torch.ones(1, 4096))
    assert torch.isfinite(received).all()
    wanted = 2 * 64 * torch.log1p(torch.tensor(4096.0))
    assert received[0, 7] == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["bert", "mistral", "gemma2, full"])
@torch.no_grad()
def test_autocast_changes_the_weights_little(kind):
    model, batch = made(kind), inputs("right")
    whole, _ = tapped(model, batch)
    with torch.autocast("cpu", torch.bfloat16):
        half, hidden = tapped(model, batch)
    assert half.dtype == torch.float32
    assert (half - whole).abs().max() < 0.03
    assert torch.isfinite(hidden).all()
