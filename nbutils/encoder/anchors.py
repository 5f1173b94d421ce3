"""Which tokens are anchors: attention received, by token and by class of token.

Negative Matters sees anchors at the first word, at punctuation and at the template's
last token; here that is counted over many texts.
"""

from __future__ import annotations

import string
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from sentence_transformers import SentenceTransformer

from nbutils.core.statistics import interval
from nbutils.encoder.attention import attend, attention_tap
from nbutils.encoder.pooling import POOLINGS, token_weights

CLASSES = ("first token", "last token", "punctuation", "word")


def token_class(token: str, position: int, count: int) -> str:
    """The class of the token at `position` of `count`.

    The first and last token are, for most encoders, template tokens ([CLS], [/INST]).
    """
    if position == 0:
        return "first token"
    if position == count - 1:
        return "last token"
    bare = token.strip("Ġ▁# ")
    return "punctuation" if bare and set(bare) <= set(string.punctuation) else "word"


def even_causal(tokens: int) -> np.ndarray:
    """Attention (tokens,) received where each attends evenly to itself and before.

    The first token is far above 1, a text's mean, even where no head prefers it.
    """
    mask = np.tri(tokens)
    return (mask / mask.sum(1, keepdims=True)).sum(0)


def relative_attention(attention: np.ndarray, *, causal: bool) -> np.ndarray:
    """Attention received (n,), of what an even attention of that direction would give.

    `attention` is (heads, n, n), rows that sum to one. Only what exceeds 1 is a sink.
    """
    received = attention.mean(0).sum(0)
    return received / even_causal(len(received)) if causal else received


def inspect(
    model: SentenceTransformer, texts: Sequence[str], transform: str = "log"
) -> list[dict[str, Any]]:
    """Tokens, attention and hidden states of each text under `model`.

    Each entry, of n real tokens, in float32: `tokens` (n strings), `attention` of the
    last layer (heads, n, n), its `hidden` states (n, dim), and `received` (layers, n),
    the weights that ATA would give by each layer, rows that sum to one. The first
    module must be a `Backbone`; `transform` is `attention.attend`'s.
    """
    entries, every = [], slice(None)
    for text in texts:
        features = model.preprocess([text])
        ids = features["input_ids"].to(model.device)
        mask = features["attention_mask"].to(model.device)
        with torch.no_grad(), attention_tap(every=True) as tap:
            output = model[0].model(input_ids=ids, attention_mask=mask)
            summed = [attend(one, mask, transform=transform)[1] for one in tap.layers]
        real = mask[0].bool()  # texts are padded to round lengths
        received = torch.cat(summed)[:, real]
        measured = {
            "attention": tap.layer.probabilities(every, every)[0][:, real][..., real],
            "hidden": output.last_hidden_state[0][real],
            "received": received / received.sum(1, keepdim=True),
        }
        tokens = model.tokenizer.convert_ids_to_tokens(ids[0][real].tolist())
        arrays = {name: m.float().cpu().numpy() for name, m in measured.items()}
        entries.append({"tokens": tokens, **arrays})
    return entries


def anchor_table(
    entries: Sequence[dict], weights: Sequence[np.ndarray]
) -> pd.DataFrame:
    """One row a token: text number, position, token, class, weight relative to 1/n.

    `weights` holds each text's token weights (n,), summing to one; a relative weight
    of 1 is a token's even share.
    """
    rows = []
    for number, (entry, weight) in enumerate(zip(entries, weights, strict=True)):
        count = len(entry["tokens"])
        for place, token in enumerate(entry["tokens"]):
            kind = token_class(token, place, count)
            rows.append((number, place, token, kind, float(weight[place] * count)))
    return pd.DataFrame(
        rows, columns=["text", "position", "token", "class", "relative"]
    )


def class_means(table: pd.DataFrame, samples: int, seed: int) -> pd.DataFrame:
    """Mean relative weight of each class with a 95 % bootstrap interval over texts."""
    per_text = table.groupby(["class", "text"])["relative"].mean()
    rows = []
    for name in (c for c in CLASSES if c in per_text):
        values = per_text[name]
        rows.append((name, *interval(values, samples, seed), len(values)))
    return pd.DataFrame(rows, columns=["class", "mean", "low", "high", "texts"])


def by_layer(entries: Sequence[dict], samples: int, seed: int) -> pd.DataFrame:
    """`class_means` of every layer: layer (1 is the first), class, mean, low, high."""
    tables = []
    for layer in range(len(entries[0]["received"])):
        weights = [entry["received"][layer] for entry in entries]
        means = class_means(anchor_table(entries, weights), samples, seed)
        tables.append(means.assign(layer=layer + 1))
    return pd.concat(tables, ignore_index=True)


def by_place(
    weights: Sequence[np.ndarray], samples: int, seed: int, parts: int = 5
) -> pd.DataFrame:
    """Mean share of weight by place in the text, in even shares, with intervals.

    `weights` holds each text's token weights; a text is cut into `parts` equal parts
    (columns part, mean, low, high; texts are the units).
    """
    shares = [
        [part.mean() * len(weight) for part in np.array_split(weight, parts)]
        for weight in weights
        if len(weight) >= parts
    ]
    rows = [
        (number, *interval(column, samples, seed))
        for number, column in enumerate(np.transpose(shares), 1)
    ]
    return pd.DataFrame(rows, columns=["part", "mean", "low", "high"])


def pooled(
    model: SentenceTransformer, texts: Sequence[str], prompt: str | None = None
) -> dict[str, np.ndarray]:
    """Unit vectors (texts, dim) under every pooling, from one pass of the backbone.

    `prompt` is the instruction. The backbone must be one made for ATA pooling.
    """
    found: dict[str, list[torch.Tensor]] = {mode: [] for mode in POOLINGS}
    for seen in model.encode(list(texts), prompt=prompt, output_value=None):
        mask, received = seen["pooling_mask"], seen["received_attention"]
        for mode, vectors in found.items():
            weights = token_weights(mode, mask[None], received[None])
            vectors.append(weights[0] @ seen["token_embeddings"].float())
    return {
        mode: torch.nn.functional.normalize(torch.stack(vectors), dim=-1).cpu().numpy()
        for mode, vectors in found.items()
    }
