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
from nbutils.encoder.attention import attend, attention_matrix, attention_tap
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


def inspect(
    model: SentenceTransformer, texts: Sequence[str]
) -> list[dict[str, np.ndarray]]:
    """Tokens, attention and hidden states of each text under `model` (last layer).

    Each entry: `tokens` (n strings), `attention` (heads, n, n), `hidden` (n, dim), in
    float32, for the n real tokens. The first module must be a `Backbone` with a tap.
    """
    entries = []
    for text in texts:
        features = model.preprocess([text])
        features = {k: v.to(model.device) for k, v in features.items()}
        with torch.no_grad(), attention_tap() as tap:
            backbone = model[0].model(
                input_ids=features["input_ids"],
                attention_mask=features["attention_mask"],
            )
        mask = features["attention_mask"]
        real = mask[0].bool().cpu().numpy()  # batches are padded to round lengths
        ids = features["input_ids"][0].cpu()[real].tolist()
        attention = attention_matrix(tap.layer, mask)[0].float().cpu().numpy()
        hidden = backbone.last_hidden_state[0].float().cpu().numpy()
        entries.append(
            {
                "tokens": model.tokenizer.convert_ids_to_tokens(ids),
                "attention": attention[:, real][:, :, real],
                "hidden": hidden[real],
            }
        )
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
        for position, token in enumerate(entry["tokens"]):
            rows.append(
                {
                    "text": number,
                    "position": position,
                    "token": token,
                    "class": token_class(token, position, count),
                    "relative": float(weight[position] * count),
                }
            )
    return pd.DataFrame(rows)


def class_means(table: pd.DataFrame, samples: int, seed: int) -> pd.DataFrame:
    """Mean relative weight of each class with a 95 % bootstrap interval over texts."""
    per_text = table.groupby(["text", "class"])["relative"].mean().unstack()
    rows = []
    for name in [c for c in CLASSES if c in per_text]:
        values = per_text[name].dropna().to_numpy()
        mean, low, high = interval(values, samples, seed)
        rows.append(
            {
                "class": name,
                "mean": mean,
                "low": low,
                "high": high,
                "texts": len(values),
            }
        )
    return pd.DataFrame(rows)


def by_layer(
    model: SentenceTransformer,
    texts: Sequence[str],
    samples: int,
    seed: int,
    batch: int = 32,
    transform: str = "log",
) -> pd.DataFrame:
    """`class_means` of every layer: layer (1 is the first), class, mean, low, high.

    `transform` is `attention.attend`'s: `sum` counts the attention itself.
    """
    found: dict[int, list] = {}
    entries = []
    for start in range(0, len(texts), batch):
        features = model.preprocess(texts[start : start + batch])
        features = {k: v.to(model.device) for k, v in features.items()}
        mask = features["attention_mask"]
        with torch.no_grad(), attention_tap(every=True) as tap:
            model[0].model(input_ids=features["input_ids"], attention_mask=mask)
            received = [
                attend(layer, mask, transform=transform)[1] for layer in tap.layers
            ]
        for row, real in enumerate(mask.bool()):
            ids = features["input_ids"][row][real].tolist()
            entries.append({"tokens": model.tokenizer.convert_ids_to_tokens(ids)})
            for number, whole in enumerate(received, 1):
                weight = whole[row][real]
                found.setdefault(number, []).append((weight / weight.sum()).tolist())
    tables = [
        class_means(anchor_table(entries, weights), samples, seed).assign(layer=number)
        for number, weights in found.items()
    ]
    return pd.concat(tables, ignore_index=True)


def by_place(
    weights: Sequence[np.ndarray], samples: int, seed: int, parts: int = 5
) -> pd.DataFrame:
    """Mean share of weight by place in the text, in even shares, with intervals.

    `weights` holds each text's token weights; a text is cut into `parts` equal parts
    (columns part, mean, low, high; texts are the units).
    """
    shares = np.array(
        [
            [part.mean() * len(weight) for part in np.array_split(weight, parts)]
            for weight in weights
            if len(weight) >= parts
        ]
    )
    rows = [
        dict(zip(("mean", "low", "high"), interval(column, samples, seed), strict=True))
        for column in shares.T
    ]
    return pd.DataFrame(rows).assign(part=range(1, parts + 1))


def pooled(
    model: SentenceTransformer,
    texts: Sequence[str],
    batch: int = 64,
    prompt: str | None = None,
) -> dict[str, np.ndarray]:
    """Unit vectors (texts, dim) under every pooling, from one pass of the backbone.

    `prompt` is the instruction.
    """
    order = np.argsort([len(text) for text in texts])
    found: dict[str, list[np.ndarray]] = {mode: [] for mode in POOLINGS}
    for start in range(0, len(order), batch):
        part = [texts[i] for i in order[start : start + batch]]
        features = model.preprocess(part, prompt=prompt)
        features = {k: v.to(model.device) for k, v in features.items()}
        with torch.no_grad():
            features = model[0](features)
        hidden = features["token_embeddings"].float()
        for mode in POOLINGS:
            weights = token_weights(
                mode, features["pooling_mask"], features["received_attention"]
            )
            vectors = torch.einsum("bt,btd->bd", weights, hidden)
            vectors = torch.nn.functional.normalize(vectors, dim=-1)
            found[mode].append(vectors.cpu().numpy())
    back = np.argsort(order)
    return {mode: np.concatenate(parts)[back] for mode, parts in found.items()}
