"""The attention a token receives, computed without attention matrices.

`attend` runs one layer's attention in blocks of queries and sums, on the way, what each
token receives; `attention_tap` lets it run as the last layer of any backbone that uses
transformers' attention interface. Every other layer runs SDPA.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from nbutils.core.errors import LabError

TRANSFORMS = ("log", "sum", "printed")
TAPPED = "tapped_attention"
"""Name of the attention that `attention_tap` listens to. (A name with sdpa in it would
be refused by models whose scores are soft-capped, which `attend` can do.)
"""

BLOCK_BYTES = {"cpu": 2 * 2**20, "cuda": 128 * 2**20}
"""Size of a block of scores: what a core's cache holds, or a small part of a GPU."""

SMALLEST = 1e-9
"""An attention of zero, for the printed formula, whose logarithm has none."""


@dataclass(frozen=True)
class Layer:
    """What one attention layer was called with.

    `query` is (batch, heads, tokens, dim), `key` and `value` (batch, key heads,
    tokens, dim), fewer heads under grouped-query attention; `allowed` the mask that the
    layer was given (boolean or added to the scores; padding and sliding windows are in
    it); `softcap` the bound of Gemma 2's scores.
    """

    query: Tensor
    key: Tensor
    value: Tensor | None = None
    allowed: Tensor | None = None
    causal: bool = False
    scaling: float | None = None
    softcap: float | None = None

    def probabilities(self, texts: slice, rows: slice, real: Tensor | None) -> Tensor:
        """Attention of some texts' queries: (texts, heads, rows, tokens), float32."""
        query, key = self.query[texts, :, rows].float(), self.key[texts].float()
        batch, heads, count, size = query.shape
        scale = size**-0.5 if self.scaling is None else self.scaling
        grouped = (query * scale).reshape(batch, key.shape[1], -1, size)
        scores = (grouped @ key.mT).view(batch, heads, count, -1)
        if self.softcap is not None:
            scores = (scores / self.softcap).tanh() * self.softcap
        return self._forbid(scores, texts, rows, real).softmax(-1)

    def _forbid(self, scores, texts, rows, real) -> Tensor:
        """Scores with every forbidden key at minus infinity.

        A padded query may see nothing at all: its row is dropped later, so it is let
        see everything rather than become NaN.
        """
        forbidden = None if real is None else (real[texts] == 0)[:, None, None, :]
        if self.allowed is not None:
            block = self.allowed if len(self.allowed) == 1 else self.allowed[texts]
            block = block if block.shape[-2] == 1 else block[:, :, rows]
            if block.dtype == torch.bool:
                forbidden = ~block if forbidden is None else forbidden | ~block
            else:
                scores = scores + block.clamp(min=torch.finfo(torch.float32).min)
        elif self.causal:
            places = torch.arange(scores.shape[-1], device=scores.device)
            later = places[None, :] > places[rows][:, None]
            forbidden = later if forbidden is None else forbidden | later
        if forbidden is None:
            return scores
        forbidden = forbidden & ~forbidden.all(-1, keepdim=True)
        return scores.masked_fill_(forbidden, -torch.inf)


def _log_share(attention: Tensor, count: Tensor, longest: int) -> Tensor:
    """Sum over heads of log(1 + K a): (batch, heads, …) to (batch, …).

    The logarithm of a product is taken once for as many heads as float32 has room for:
    each factor is at most 1 + `longest`. `count` is K of each text. Without gradient
    `attention` is overwritten: a new block would cost more than the arithmetic.
    """
    if attention.requires_grad:
        factors = attention * count + 1
    else:
        factors = attention.mul_(count).add_(1)
    fit = max(1, int(88 / math.log1p(longest)))
    first, *others = (part.prod(1).log() for part in factors.split(fit, dim=1))
    return sum(others, first)


def attend(
    layer: Layer,
    mask: Tensor | None = None,
    *,
    transform: str = "log",
    block_bytes: int | None = None,
) -> tuple[Tensor | None, Tensor | None]:
    """(output, received) of one attention layer, one block of queries at a time.

    `output` (batch, heads, tokens, dim) where the layer has a `value`, else None;
    `received` (batch, tokens) in float32 where `mask` (batch, tokens; 1 for real
    tokens) is given, else None: ATA's weights before they are normalised. Padding is
    neither query nor key. Extra memory is one block, whatever the length, also with
    gradient (blocks are computed again in the backward pass).

    `transform`, with K the number of a text's real tokens and a the attention from
    token j to token i, summed over heads and over j: `log`, log(1 + K a), our reading
    of Negative Matters' ATA; `sum`, a itself; `printed`, log(a (K + 1)), the formula
    as a review prints it.
    """
    query = layer.query
    batch, heads, length, _ = query.shape
    real = None if mask is None else mask.to(query.device, torch.float32)
    padded = real is not None and not bool(real.all())
    size = block_bytes or BLOCK_BYTES.get(query.device.type, BLOCK_BYTES["cpu"])
    queries = max(1, size // (4 * heads * length))
    texts, rows = max(1, queries // length), min(queries, length)
    keep = torch.is_grad_enabled() and query.requires_grad

    def block(some: slice, part: slice):
        attention = layer.probabilities(some, part, real if padded else None)
        output = None if layer.value is None else _mixed(attention, layer.value[some])
        if real is None:
            return output, None
        return output, _received(attention, real[some], part, transform)

    output = received = None
    if layer.value is not None:  # laid out as the layer above wants it: no copy
        whole = query.new_zeros(batch, length, heads, layer.value.shape[-1])
        output = whole.transpose(1, 2)
    if real is not None:
        received = torch.zeros_like(real)
    for start in range(0, batch, texts):
        some = slice(start, start + texts)
        for part in (slice(i, i + rows) for i in range(0, length, rows)):
            if keep:
                mixed, summed = checkpoint(block, some, part, use_reentrant=False)
            else:
                mixed, summed = block(some, part)
            if output is not None:
                output[some, :, part] = mixed.to(output.dtype)
            if received is not None:
                received[some] += summed * real[some]
    return output, received


def _mixed(attention: Tensor, value: Tensor) -> Tensor:
    """Attention times values, each value head shared by its group of query heads."""
    batch, heads, rows, length = attention.shape
    grouped = attention.reshape(batch, value.shape[1], -1, length) @ value.float()
    return grouped.view(batch, heads, rows, -1)


def _received(attention, real, rows: slice, transform: str) -> Tensor:
    """What each token receives from a block of queries: (texts, tokens)."""
    count = real.sum(-1)[:, None, None, None]
    if transform == "log":
        summed = _log_share(attention, count, real.shape[-1])
    elif transform == "sum":
        summed = attention.sum(1)
    else:
        summed = (attention.clamp(min=SMALLEST) * (count + 1)).log().sum(1)
    return (real[:, None, rows] @ summed)[:, 0]


class Tap:
    """Where the last layer of a backbone leaves what it was called with.

    `last` is that layer's module where it is known: without gradient it then runs
    through `attend` and `received` is there when the forward pass ends. `layer` is
    what the latest layer was called with; `layers` are all of them, if `every`.
    """

    def __init__(self, mask: Tensor | None, last, transform: str, every: bool = False):
        self.mask = mask
        self.last = last
        self.transform = transform
        self.every = every
        self.layers: list[Layer] = []
        self.layer: Layer | None = None
        self.received: Tensor | None = None

    def weights(self, mask: Tensor, *, gradient: bool) -> Tensor:
        """`attend`'s `received` of the last layer. LabError if none was seen."""
        if self.received is not None:
            return self.received
        if self.layer is None:
            raise LabError(
                "ATA pooling cannot see this backbone's attention: it does not use "
                "transformers' attention interface; choose pooling mean, last or first"
            )
        if self.layer.key.shape[2] != mask.shape[1]:
            raise LabError(
                "ATA pooling cannot read this backbone's last attention layer: its "
                "keys are not the text's tokens; choose pooling mean, last or first"
            )
        bare = Layer(**{**vars(self.layer), "value": None})
        with (
            torch.set_grad_enabled(gradient and torch.is_grad_enabled()),
            torch.autocast(mask.device.type, enabled=False),
        ):
            return attend(bare, mask, transform=self.transform)[1]


_TAP: ContextVar[Tap | None] = ContextVar("attention_tap", default=None)


@contextmanager
def attention_tap(
    mask: Tensor | None = None, last=None, transform: str = "log", every: bool = False
):
    """Within the block, a backbone's last layer leaves its call in the `Tap` given.

    Only the latest call stays (unless `every`), so memory is that of one layer. With
    `mask` and `last` (`last_attention`) the last layer sums what tokens receive as it
    runs.
    """
    tap = Tap(mask, last, transform, every)
    token = _TAP.set(tap)
    try:
        yield tap
    finally:
        _TAP.reset(token)


def last_attention(model: torch.nn.Module) -> torch.nn.Module | None:
    """The last attention layer of a transformer, or None where it has none."""
    layers = [module for module in model.modules() if hasattr(module, "is_causal")]
    return layers[-1] if layers else None


def _tapped_attention(module, query, key, value, attention_mask, **kwargs):
    """Attention as transformers calls it: SDPA, or `attend` where SDPA cannot do it."""
    tap, causal = _TAP.get(), kwargs.get("is_causal")
    layer = Layer(
        query,
        key,
        value,
        attention_mask,
        getattr(module, "is_causal", True) if causal is None else causal,
        kwargs.get("scaling"),
        kwargs.get("softcap"),
    )
    graph = torch.is_grad_enabled() and query.requires_grad
    ends = tap is not None and tap.mask is not None and module is tap.last and not graph
    if tap is not None:
        _refuse(kwargs)
        tap.layer, tap.received = None if ends else layer, None
        if tap.every:
            tap.layers.append(layer)
    if not ends and layer.softcap is None:
        return _sdpa(module, query, key, value, attention_mask, **kwargs)
    with torch.autocast(query.device.type, enabled=False):
        output, received = attend(
            layer,
            tap.mask if ends else None,
            transform=tap.transform if ends else "log",
        )
    if ends:
        tap.received = received
    return output.transpose(1, 2).contiguous(), None


def _refuse(kwargs: dict[str, Any]) -> None:
    """LabError for a kind of attention whose weights would come out wrong."""
    for name in ("s_aux", "position_bias", "cache"):
        if kwargs.get(name) is not None:
            raise LabError(
                f"ATA pooling cannot read this backbone's attention ({name} is not "
                "supported): choose pooling mean, last or first"
            )


def _sdpa(module, query, key, value, attention_mask, **kwargs):
    """transformers' SDPA attention, in float32 where that is faster."""
    if not _slow_backward(query):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, **kwargs
        )
    whole = (part.float() for part in (query, key, value))
    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.float()
    with torch.autocast("cpu", enabled=False):
        output, weights = sdpa_attention_forward(
            module, *whole, attention_mask, **kwargs
        )
    return output.to(query.dtype), weights


def _slow_backward(query: Tensor) -> bool:
    """Whether SDPA is better run in float32: training in bfloat16 on a CPU.

    There the backward pass in bfloat16 takes two to three times that in float32.
    """
    if query.device.type != "cpu" or not torch.is_grad_enabled():
        return False
    low = query.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
    return low and query.requires_grad


AttentionInterface.register(TAPPED, _tapped_attention)
AttentionMaskInterface.register(TAPPED, sdpa_mask)


def attention_matrix(layer: Layer, mask: Tensor) -> Tensor:
    """The attention matrices of a tapped layer: (batch, heads, tokens, tokens).

    For pages and tests; `attend` never builds them.
    """
    real = mask.to(layer.query.device, torch.float32)
    return layer.probabilities(slice(None), slice(0, mask.shape[1]), real)
