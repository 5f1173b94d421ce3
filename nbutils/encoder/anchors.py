"""Which tokens are anchors: attention received, by token and by class of token.

Negative Matters sees anchors at the first word, at punctuation and at the template's
last token; here that is counted over many texts.
"""

from __future__ import annotations

import string
from collections.abc import Sequence

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

    The first and last token of a text are, for most encoders, template tokens
    ([CLS], [SEP], <s>, [/INST]).
    """
    if position == 0:
        return "first token"
    if position == count - 1:
        return "last token"
    bare = token.strip("Ġ▁# ")
    return "punctuation" if bare and set(bare) <= set(string.punctuation) else "word"


def even_causal(tokens: int) -> np.ndarray:
    """Attention (tokens,) that each receives where all attend evenly, causally.

    Each attends evenly to itself and to those before it. 1 is the mean of a text: the
    first token is far above it even where no head prefers it.
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
    model: SentenceTransformer, texts: Sequence[str]
) -> list[dict[str, np.ndarray]]:
    """Tokens, attention and hidden states of each text under `model` (last layer).

    Each entry: `tokens` (n strings), `attention` (heads, n, n), `hidden` (n, dim), in
    float32, for the n real tokens. The first module must be a `Backbone`.
    """
    entries, every = [], slice(None)
    for text in texts:
        tokens, layers, hidden, mask = _watch(model, text)
        real = mask[0].bool().cpu().numpy()  # texts are padded to round lengths
        attention = layers[-1].probabilities(every, every, mask)[0].cpu().numpy()
        attention, hidden = attention[:, real][:, :, real], hidden[real]
        entries.append({"tokens": tokens, "attention": attention, "hidden": hidden})
    return entries


def _watch(model: SentenceTransformer, text: str):
    """A text's real tokens, every layer, last hidden states and mask (with padding)."""
    features = model.preprocess([text])
    ids, mask = (features[k].to(model.device) for k in ("input_ids", "attention_mask"))
    with torch.no_grad(), attention_tap(every=True) as tap:
        output = model[0].model(input_ids=ids, attention_mask=mask)
    tokens = model.tokenizer.convert_ids_to_tokens(ids[mask.bool()].tolist())
    hidden = output.last_hidden_state[0].float().cpu().numpy()
    return tokens, tap.layers, hidden, mask


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
    per_text = table.groupby(["text", "class"])["relative"].mean().unstack()
    rows = []
    for name in (c for c in CLASSES if c in per_text):
        values = per_text[name].dropna()
        rows.append((name, *interval(values, samples, seed), len(values)))
    return pd.DataFrame(rows, columns=["class", "mean", "low", "high", "texts"])


def by_layer(
    model: SentenceTransformer,
    texts: Sequence[str],
    samples: int,
    seed: int,
    transform: str = "log",
) -> pd.DataFrame:
    """`class_means` of every layer: layer (1 is the first), class, mean, low, high.

    `transform` is `attention.attend`'s: `sum` counts the attention itself.
    """
    entries, weights = [], {}
    for text in texts:
        tokens, layers, _, mask = _watch(model, text)
        entries.append({"tokens": tokens})
        for number, layer in enumerate(layers, 1):
            received = attend(layer, mask, transform=transform)[1][mask.bool()]
            share = (received / received.sum()).cpu().numpy()
            weights.setdefault(number, []).append(share)
    tables = [
        class_means(anchor_table(entries, shares), samples, seed).assign(layer=number)
        for number, shares in weights.items()
    ]
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
