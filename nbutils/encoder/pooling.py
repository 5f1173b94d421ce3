"""From token vectors to one text vector: mean, last, first, weighted mean and ATA.

Every pooling is a set of token weights that sum to one. ATA (Negative Matters) weighs a
token by the attention it receives, which `attention.attend` sums without a matrix.
"""

from typing import Any

import torch
from sentence_transformers.base.modules import Module
from torch import Tensor

from nbutils.core.errors import LabError, known

POOLINGS = ("mean", "last", "first", "weighted_mean", "ata")


def ata_weights(attention: Tensor, mask: Tensor) -> Tensor:
    """ATA's token weights (batch, keys), which sum to one, from one layer's matrices.

    `attention` is (batch, heads, queries, keys) with rows that sum to one, `mask` is
    (batch, keys), 1 for real tokens. w_i = sum over heads h and queries j of
    log(1 + K a_{j->i}), K the number of real tokens: our reading of Negative Matters,
    section on ATA (the formula as a review prints it gives anchors the lowest weight).
    """
    real = mask.to(attention.dtype)
    count = real.sum(-1)[:, None, None, None]
    received = torch.log1p(count * attention).sum(1)
    weights = torch.einsum("bji,bj->bi", received, real) * real
    return weights / weights.sum(-1, keepdim=True)


def token_weights(mode: str, mask: Tensor, received: Tensor | None = None) -> Tensor:
    """Weights (batch, tokens) that sum to one over the tokens where `mask` is 1.

    Modes: mean; last and first real token (left or right padding alike);
    weighted_mean, by position (SGPT); ata, from `received`. LabError for an unknown
    mode or a text whose mask leaves no token.
    """
    real = mask.float()
    if (real.sum(-1) == 0).any():
        raise LabError("a text has no token left to pool: it is empty or cut too short")
    place = real.cumsum(-1) * real  # 1, 2, 3 … over the real tokens, else 0
    weights = {
        "mean": real,
        "last": (place == place.amax(-1, keepdim=True)).float(),
        "first": (place == 1).float(),
        "weighted_mean": place,
        "ata": None if received is None else received * real,
    }[known("pooling", mode, POOLINGS)]
    if weights is None:
        raise LabError("ATA pooling needs the attention that tokens receive")
    return weights / weights.sum(-1, keepdim=True)


class TokenPooling(Module):
    """The pooling step of a SentenceTransformer, by `token_weights`.

    Reads `token_embeddings` (batch, tokens, dim), `pooling_mask` and, for ATA,
    `received_attention`; writes `token_weights` and `sentence_embedding` (batch, dim).
    """

    config_keys = ["mode", "dimension"]  # noqa: RUF012

    def __init__(self, mode: str, dimension: int):
        super().__init__()
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
        return self.dimension

    def save(self, output_path: str, *args, **kwargs) -> None:
        self.save_config(output_path)
