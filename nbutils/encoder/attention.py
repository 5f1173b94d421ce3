"""The attention a token receives, computed without attention matrices.

`attend` runs one layer's attention in blocks of queries and sums, on the way, what each
token receives; `AttentionTap` lets it run as the last layer of any backbone that uses
transformers' attention interface. Every other layer runs SDPA.
"""

import math
from contextvars import ContextVar
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from itertools import product
from typing import Self

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

TAPPED = "tapped_attention"
"""Name of the attention that `AttentionTap` listens to. (A name with sdpa in it would
be refused by models whose scores are soft-capped, which `attend` can do.)"""

BLOCK_BYTES = {"cpu": 2 * 2**20, "cuda": 128 * 2**20}
"""Size of a block of scores: what a core's cache holds, or a small part of a GPU."""


@dataclass(frozen=True)
class Layer:
    """What one attention layer was called with.

    `query` is (batch, heads, tokens, dim), `key` and `value` (batch, key heads,
    tokens, dim), fewer heads under grouped-query attention; `allowed` the layer's mask
    (boolean or added to the scores); `softcap` the bound of Gemma 2's scores.
    """

    query: Tensor
    key: Tensor
    value: Tensor | None = None
    allowed: Tensor | None = None
    causal: bool = False
    scaling: float | None = None
    softcap: float | None = None

    def probabilities(self, texts: slice, rows: slice) -> Tensor:
        """Attention of some texts' queries: (texts, heads, rows, tokens), float32."""
        query, key = self.query[texts, :, rows].float(), self.key[texts].float()
        batch, heads, count, size = query.shape
        scale = size**-0.5 if self.scaling is None else self.scaling
        grouped = (query * scale).reshape(batch, key.shape[1], -1, size)
        scores = (grouped @ key.mT).view(batch, heads, count, -1)
        if self.softcap is not None:
            scores = (scores / self.softcap).tanh() * self.softcap
        allowed = self.allowed
        if allowed is not None:
            whole = allowed.expand(len(self.query), -1, self.query.shape[2], -1)
            allowed = whole[texts, :, rows]
        elif self.causal:
            square = scores.new_ones(scores.shape[-2:], dtype=torch.bool)
            allowed = square.tril(rows.start or 0)
        if allowed is None:
            return scores.softmax(-1)
        if allowed.dtype == torch.bool:
            # A padded query may see nothing: its row is dropped later, so it is let
            # see everything rather than become NaN.
            never = ~allowed & allowed.any(-1, keepdim=True)
            return scores.masked_fill_(never, -torch.inf).softmax(-1)
        return (scores + allowed.clamp(min=torch.finfo(torch.float32).min)).softmax(-1)


def attend(
    layer: Layer, mask: Tensor, transform: str = "log"
) -> tuple[Tensor | None, Tensor]:
    """(output, received) of one attention layer, one block of queries at a time.

    `output` (batch, heads, tokens, dim), None where the layer has no `value`;
    `received` (batch, tokens), float32: ATA's weights before they are normalised.
    `mask` (batch, tokens) is 1 for real tokens: padding neither gives nor receives.
    Extra memory is one block, whatever the length, also with gradient (blocks are
    computed again in the backward pass).

    `transform`, with K the number of a text's real tokens and a the attention from
    token j to token i, summed over heads and over j: `log`, log(1 + K a), our reading
    of Negative Matters' ATA; `sum`, a itself; `printed`, log(a (K + 1)), the formula
    as a review prints it.
    """
    query, value = layer.query, layer.value
    batch, heads, length, _ = query.shape
    real = mask.to(query.device, torch.float32)

    def block(texts: slice, rows: slice) -> tuple[Tensor | None, Tensor]:
        attention, mixed = layer.probabilities(texts, rows), None
        if value is not None:  # a value head is shared by its group of query heads
            grouped = attention.reshape(len(attention), value.shape[1], -1, length)
            mixed = (grouped @ value[texts].float()).view(*attention.shape[:3], -1)
        count = real[texts].sum(-1)[:, None, None, None]
        shares = _over_heads(attention, count, transform)
        return mixed, (real[texts, None, rows] @ shares)[:, 0]

    graph = torch.is_grad_enabled() and query.requires_grad
    run = partial(checkpoint, block, use_reentrant=False) if graph else block
    output, received = None, torch.zeros_like(real)
    if value is not None:  # laid out as the layer above wants it: no copy
        output = query.new_zeros(batch, length, heads, value.shape[-1]).transpose(1, 2)
    size = BLOCK_BYTES["cuda" if query.is_cuda else "cpu"]
    queries = max(1, size // (4 * heads * length))
    high, wide = max(1, queries // length), min(queries, length)
    for start, first in product(range(0, batch, high), range(0, length, wide)):
        texts, rows = slice(start, start + high), slice(first, first + wide)
        mixed, summed = run(texts, rows)
        if mixed is not None:
            output[texts, :, rows] = mixed.to(output.dtype)
        received[texts] += summed * real[texts]
    return output, received


def _over_heads(attention: Tensor, count: Tensor, transform: str) -> Tensor:
    """`attend`'s transform, summed over heads: (batch, heads, …) to (batch, …).

    The logarithm of a product is taken once for as many heads as float32 has room for:
    each factor is at most 1 + K. Without gradient `attention` is overwritten: a new
    block would cost more than the arithmetic.
    """
    if transform == "sum":
        return attention.sum(1)
    if transform == "printed":
        above_zero = attention.clamp(min=1e-9)  # zero has no logarithm
        return (above_zero * (count + 1)).log().sum(1)
    if attention.requires_grad:
        factors = attention * count + 1
    else:
        factors = attention.mul_(count).add_(1)
    fit = max(1, int(88 / math.log1p(attention.shape[-1])))
    return reduce(torch.add, (part.prod(1).log() for part in factors.split(fit, dim=1)))


@dataclass
class AttentionTap:
    """Within its block, a backbone's attention layers leave here what they are given.

    `last` is the last layer's module: without gradient it runs through `attend` with
    `mask`, and `received` is there when the forward pass ends. `layers` is what the
    latest layer was called with, or, for more memory, all of them if `every`.
    """

    mask: Tensor | None = None
    last: torch.nn.Module | None = None
    transform: str = "log"
    every: bool = False
    layers: list[Layer] = field(default_factory=list)
    received: Tensor | None = None

    def __enter__(self) -> Self:
        self._before = _TAP.set(self)
        return self

    def __exit__(self, *error) -> None:
        _TAP.reset(self._before)

    def weights(self, gradient: bool = False) -> Tensor:
        """`attend`'s `received` of the last layer."""
        if self.received is not None:
            return self.received
        grad = torch.set_grad_enabled(gradient and torch.is_grad_enabled())
        with grad, torch.autocast(self.mask.device.type, enabled=False):
            bare = replace(self.layers[-1], value=None)
            return attend(bare, self.mask, self.transform)[1]


_TAP: ContextVar[AttentionTap | None] = ContextVar("attention_tap", default=None)


def listen(model: PreTrainedModel) -> bool:
    """Let an `AttentionTap` hear a transformer; False, and no change, where it cannot.

    It can where the model's class hands its attention to transformers' interface, and
    where SDPA or `attend` does all of it: scores that are soft-capped, but no sinks.
    """
    capped = getattr(model.config, "attn_logit_softcapping", None) is not None
    if not (model.is_backend_compatible() and (model._supports_sdpa or capped)):
        return False
    model.set_attn_implementation(TAPPED)
    return True


def attention_layers(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The attention layers of a transformer, the first first."""
    return [module for module in model.modules() if hasattr(module, "is_causal")]


def _tapped_attention(module, query, key, value, allowed, **kwargs):
    """Attention as transformers calls it: SDPA, or `attend` where SDPA cannot do it."""
    tap, causal = _TAP.get(), kwargs.get("is_causal")
    if causal is None:
        causal = getattr(module, "is_causal", True)
    scaling, softcap = kwargs.get("scaling"), kwargs.get("softcap")
    layer = Layer(query, key, value, allowed, causal, scaling, softcap)
    graph = torch.is_grad_enabled() and query.requires_grad
    mask, transform = None, "sum"
    if tap is not None:
        tap.layers, tap.received = [*tap.layers, layer] if tap.every else [layer], None
        if module is tap.last and not graph:
            mask, transform = tap.mask, tap.transform
    if mask is not None or softcap is not None:
        real = query.new_ones(len(query), query.shape[2]) if mask is None else mask
        with torch.autocast(query.device.type, enabled=False):
            output, received = attend(layer, real, transform)
        if mask is not None:
            tap.received = received
        return output.transpose(1, 2).contiguous(), None
    if not graph or query.device.type != "cpu":
        return sdpa_attention_forward(module, query, key, value, allowed, **kwargs)
    # On a CPU the backward pass in bfloat16 takes two to three times that in float32.
    if allowed is not None and allowed.is_floating_point():
        allowed = allowed.float()
    whole = (part.float() for part in (query, key, value))
    with torch.autocast("cpu", enabled=False):
        output, _ = sdpa_attention_forward(module, *whole, allowed, **kwargs)
    return output.to(query.dtype), None


AttentionInterface.register(TAPPED, _tapped_attention)
AttentionMaskInterface.register(TAPPED, sdpa_mask)
