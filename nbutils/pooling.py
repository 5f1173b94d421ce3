"""From token vectors to one text vector: mean, last, first, weighted mean and ATA.

Every pooling here is a set of token weights that sum to one, so that they can be
compared, drawn and swapped. ATA (Negative Matters) weighs a token by the attention it
receives; `received_attention` computes that without ever holding an attention matrix.
"""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from sentence_transformers.base.modules import Module
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from nbutils.errors import LabError
from nbutils.settings import nearest

POOLINGS = ("mean", "last", "first", "weighted_mean", "ata")
TAPPED = "sdpa_with_tap"
"""Name of the attention implementation that `attention_tap` can listen to."""

BLOCK_BYTES = 16 * 2**20
_TAP: ContextVar[dict[str, Any] | None] = ContextVar("attention_tap", default=None)


def ata_weights(attention: Tensor, mask: Tensor) -> Tensor:
    """ATA's token weights from one layer's attention matrices.

    `attention` is (batch, heads, queries, keys) with rows that sum to one, `mask` is
    (batch, keys), 1 for real tokens; returns (batch, keys), rows that sum to one.
    w_i = sum over heads h and queries j of log(1 + K a_{j->i}), K the number of real
    tokens: our reading of Negative Matters, section on ATA (the formula as a review
    prints it gives the anchors the lowest weight).
    """
    real = mask.to(attention.dtype)
    count = real.sum(-1)[:, None, None, None]
    received = torch.log1p(count * attention).sum(1)
    weights = torch.einsum("bji,bj->bi", received, real) * real
    return weights / weights.sum(-1, keepdim=True)


def received_attention(
    query: Tensor,
    key: Tensor,
    mask: Tensor,
    *,
    allowed: Tensor | None = None,
    causal: bool = False,
    scaling: float | None = None,
    block_bytes: int = BLOCK_BYTES,
) -> Tensor:
    """The unnormalised ATA weights of one layer, in blocks of queries.

    `query` is (batch, heads, tokens, dim), `key` (batch, key heads, tokens, dim) with
    the heads grouped as in grouped-query attention; `mask` is (batch, tokens), 1 for
    real tokens; `allowed` is the additive or boolean mask that the layer itself used.
    Returns (batch, tokens) in float32. Extra memory is one block of at most about
    `block_bytes`, whatever the length.
    """
    batch, heads, length, size = query.shape
    groups = heads // key.shape[1]
    keys = key.float().repeat_interleave(groups, 1).transpose(-1, -2)
    scaling = size**-0.5 if scaling is None else scaling
    real = mask.to(query.device, torch.float32)
    count = real.sum(-1)[:, None, None, None]
    weights = torch.zeros(batch, length, device=query.device)
    step = max(1, block_bytes // (4 * batch * heads * length))
    for start in range(0, length, step):
        rows = slice(start, start + step)
        scores = query[:, :, rows].float() @ keys * scaling
        scores = _masked(scores, allowed, causal, real, rows)
        received = torch.log1p(count * scores.softmax(-1)).sum(1)
        weights = weights + torch.einsum("bji,bj->bi", received, real[:, rows])
    return weights * real


def _masked(scores, allowed, causal, real, rows) -> Tensor:
    """Scores of a block of query rows with every forbidden key at minus infinity."""
    if allowed is not None:
        block = allowed if allowed.shape[-2] == 1 else allowed[:, :, rows]
        if block.dtype == torch.bool:
            scores = scores.masked_fill(~block, -torch.inf)
        else:
            scores = scores + block.float()
    elif causal:
        length = scores.shape[-1]
        keys = torch.arange(length, device=scores.device)
        later = keys[None, :] > keys[rows][:, None]
        scores = scores.masked_fill(later, -torch.inf)
    scores = scores.masked_fill(real[:, None, None, :] == 0, -torch.inf)
    # A padded query may see nothing at all; its row is dropped later, but not as NaN.
    return scores.masked_fill(torch.isinf(scores).all(-1, keepdim=True), 0.0)


def _sdpa_with_tap(module, query, key, value, attention_mask, **kwargs):
    """transformers' SDPA attention that leaves its last call where a tap can read."""
    tap = _TAP.get()
    if tap is not None:
        causal = kwargs.get("is_causal")
        tap["call"] = {
            "query": query,
            "key": key,
            "allowed": attention_mask,
            "scaling": kwargs.get("scaling"),
            "causal": getattr(module, "is_causal", True) if causal is None else causal,
        }
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


AttentionInterface.register(TAPPED, _sdpa_with_tap)
AttentionMaskInterface.register(TAPPED, sdpa_mask)


@contextmanager
def attention_tap():
    """Within the block, the last layer's queries and keys are kept (by reference).

    Only the latest call stays, so memory is that of one layer. Yields a dict whose
    `call` entry is ready for `received_attention`.
    """
    tap: dict[str, Any] = {}
    token = _TAP.set(tap)
    try:
        yield tap
    finally:
        _TAP.reset(token)


def tapped_weights(tap: dict[str, Any], mask: Tensor, *, gradient: bool) -> Tensor:
    """`received_attention` of the call that a tap kept. LabError if there is none."""
    if "call" not in tap:
        raise LabError(
            "ATA pooling cannot see this backbone's attention: it does not use "
            "transformers' attention interface; choose pooling mean, last or first"
        )
    call = tap["call"]
    with (
        torch.set_grad_enabled(gradient and torch.is_grad_enabled()),
        torch.autocast(call["query"].device.type, enabled=False),
    ):
        return received_attention(mask=mask, **call)


def token_weights(mode: str, mask: Tensor, received: Tensor | None = None) -> Tensor:
    """Weights (batch, tokens) that sum to one over the tokens where `mask` is 1.

    Modes: mean; last and first real token (left or right padding alike);
    weighted_mean, by position (SGPT); ata, from `received`. Raises LabError for an
    unknown mode or a text whose mask leaves no token.
    """
    real = mask.float()
    if (real.sum(-1) == 0).any():
        raise LabError("a text has no token left to pool: it is empty or cut too short")
    position = real.cumsum(-1) * real
    if mode == "mean":
        weights = real
    elif mode == "last":
        weights = (position == position.amax(-1, keepdim=True)).float() * real
    elif mode == "first":
        weights = (position == 1).float()
    elif mode == "weighted_mean":
        weights = position
    elif mode == "ata":
        if received is None:
            raise LabError("ATA pooling needs the attention that tokens receive")
        weights = received * real
    else:
        raise LabError(f"unknown pooling {mode!r}{nearest(mode, POOLINGS)}")
    return weights / weights.sum(-1, keepdim=True)


class TokenPooling(Module):
    """The pooling step of a SentenceTransformer, by `token_weights`.

    Reads `token_embeddings` (batch, tokens, dim), `pooling_mask` and, for ATA,
    `received_attention`; writes `token_weights` and `sentence_embedding` (batch, dim).
    """

    config_keys = ["mode", "dimension"]  # noqa: RUF012

    def __init__(self, mode: str, dimension: int):
        super().__init__()
        if mode not in POOLINGS:
            raise LabError(f"unknown pooling {mode!r}{nearest(mode, POOLINGS)}")
        self.mode = mode
        self.dimension = dimension

    def forward(self, features: dict[str, Any], **kwargs) -> dict[str, Any]:
        weights = token_weights(
            self.mode, features["pooling_mask"], features.get("received_attention")
        )
        tokens = features["token_embeddings"].float()
        features["token_weights"] = weights
        features["sentence_embedding"] = torch.einsum("bt,btd->bd", weights, tokens)
        return features

    def get_embedding_dimension(self) -> int:
        """Size of a text vector."""
        return self.dimension

    def save(self, output_path: str, *args, **kwargs) -> None:
        """Write the module's settings as config.json."""
        self.save_config(output_path)


def attention_matrix(call: dict[str, Any], mask: Tensor) -> Tensor:
    """The attention matrices that a tapped call had: (batch, heads, tokens, tokens).

    For pages and tests; `received_attention` never builds them. Arguments are those of
    a tap's `call`.
    """
    query, key = call["query"].float(), call["key"].float()
    keys = key.repeat_interleave(query.shape[1] // key.shape[1], 1)
    scaling = call["scaling"] or query.shape[-1] ** -0.5
    scores = query @ keys.transpose(-1, -2) * scaling
    rows = slice(0, query.shape[2])
    scores = _masked(scores, call["allowed"], call["causal"], mask.float(), rows)
    return scores.softmax(-1)
