"""Which tokens are anchors: attention received, by token and by class of token.

Negative Matters sees anchors at the first word, at punctuation and at the template's
last token; here that is counted over many texts.
"""

import string
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import torch
from sentence_transformers import SentenceTransformer

from nbutils.core.errors import LabError
from nbutils.core.statistics import bootstrap, interval
from nbutils.encoder.attention import AttentionTap, attend
from nbutils.encoder.pooling import token_weights
from nbutils.encoder.templates import tokenize

SHOWN = str.maketrans({"Ċ": "↵", "Ġ": " ", "▁": " "})
"""How tokenizers write a new line and a space, and how they are shown."""


def token_classes(tokens: Sequence[str], before: int, after: int) -> list[str]:
    """The class of each token, of which `before` and `after` are the template's.

    They are: first token; each other token of the template by its name; first word
    (its first piece); punctuation; other.
    """

    def name(place: int, bare: str) -> str:
        if place == 0:
            return "first token"
        if place < before or place >= len(tokens) - after:
            return f"template: {bare or 'space'}"
        if place == before:
            return "first word"
        marks = bare and set(bare) <= set(string.punctuation)
        return "punctuation" if marks else "other"

    return [name(place, token.strip(" #")) for place, token in enumerate(tokens)]


def even_causal(tokens: int) -> np.ndarray:
    """Attention (tokens,) received where each attends evenly to itself and before.

    The first token is far above 1, a text's mean, even where no head prefers it.
    """
    mask = np.tri(tokens)
    return (mask / mask.sum(1, keepdims=True)).sum(0)


def relative_attention(received: np.ndarray, *, causal: bool) -> np.ndarray:
    """Attention received (n,), of what an even attention of that direction would give.

    `received` may have any sum. Only what exceeds 1 is a sink.
    """
    shares = received / received.mean()
    return shares / even_causal(len(shares)) if causal else shares


def inspect(
    model: SentenceTransformer, texts: Sequence[str], transform: str = "log"
) -> list[dict[str, Any]]:
    """Tokens, attention and hidden states of each text under `model`, a student.

    Each entry, of n real tokens, in float32: `tokens` (n strings), their `classes`
    (n strings), `pooled` (n, 1 where the model's rule pools the token), `attention` of
    the last layer (heads, n, n), its `hidden` states (n, dim), and `received` (layers,
    n), by each layer, rows that sum to one: under the `transform` log, ATA's weights
    (`attention.attend` has the others). LabError where attention cannot be read.
    """
    if not model[0].tapped:
        raise LabError(f"{model[0].section.student}: its attention cannot be read")
    entries, every, section = [], slice(None), model[0].section
    model.eval()  # without dropout
    written = model.tokenizer, section.text_format, "", "text", section.max_length
    for text in texts:
        features = model.preprocess([text])
        ids = features["input_ids"].to(model.device)
        mask = features["attention_mask"].to(model.device)
        with torch.no_grad(), AttentionTap(every=True) as tap:
            output = model[0].model(input_ids=ids, attention_mask=mask)
            summed = [attend(one, mask, transform)[1] for one in tap.layers]
        real = mask[0].bool()  # texts are padded to round lengths
        received = torch.cat(summed)[:, real]
        matrices = tap.layers[-1].probabilities(every, every)[0]
        measured = {
            "pooled": features["pooling_mask"].to(model.device)[0][real],
            "attention": matrices[:, real][..., real],
            "hidden": output.last_hidden_state[0][real],
            "received": received / received.sum(1, keepdim=True),
        }
        arrays = {name: m.float().cpu().numpy() for name, m in measured.items()}
        raw = model.tokenizer.convert_ids_to_tokens(ids[0][real].tolist())
        tokens = [token.translate(SHOWN) for token in raw]
        own = tokenize([text.strip()], *written)["pooling_mask"][0][real.cpu()]
        before, count = int(own.argmax()), int(own.sum())
        classes = token_classes(tokens, before, len(tokens) - before - count)
        entries.append({"tokens": tokens, "classes": classes, **arrays})
    return entries


def anchor_table(
    entries: Sequence[dict], relative: Sequence[np.ndarray]
) -> pd.DataFrame:
    """One row a token: text (its number), position, token, class, relative.

    `relative` holds each text's attention received or weights (n,), 1 an even share.
    """
    tables = [
        pd.DataFrame({"token": e["tokens"], "class": e["classes"], "relative": shares})
        for e, shares in zip(entries, relative, strict=True)
    ]
    names = ["text", "position"]
    return pd.concat(tables, keys=range(len(tables)), names=names).reset_index()


def class_means(table: pd.DataFrame, samples: int, seed: int) -> pd.DataFrame:
    """Mean relative weight of each class with a 95 % bootstrap interval over texts."""
    per_text = table.groupby(["class", "text"], sort=False)["relative"].mean()
    rows = [
        (name, *interval(values, samples, seed), len(values))
        for name, values in per_text.groupby("class", sort=False)
    ]
    return pd.DataFrame(rows, columns=["class", "mean", "low", "high", "texts"])


def by_layer(
    entries: Sequence[dict], samples: int, seed: int, *, causal: bool
) -> pd.DataFrame:
    """`class_means` of every layer: layer (1 is the first), class, mean, low, high."""
    tables = []
    for layer in range(len(entries[0]["received"])):
        received = [entry["received"][layer] for entry in entries]
        relative = [relative_attention(one, causal=causal) for one in received]
        means = class_means(anchor_table(entries, relative), samples, seed)
        tables.append(means.assign(layer=layer + 1))
    return pd.concat(tables, ignore_index=True)


def pool(entries: Sequence[dict], mode: str, start: int = 0) -> np.ndarray:
    """Unit vectors (texts, dim) of `entries`, made by `inspect` with transform log.

    `mode` is one of POOLINGS; the first `start` tokens of each text are left out.
    """
    vectors = []
    for entry in entries:
        mask = torch.ones(1, len(entry["tokens"]))
        mask[:, :start] = 0
        received = torch.from_numpy(entry["received"][-1:])
        vectors.append(token_weights(mode, mask, received)[0].numpy() @ entry["hidden"])
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def unrelated_cosine(
    vectors: np.ndarray, groups: Sequence[str], samples: int, seed: int
) -> tuple[float, float, float]:
    """Mean cosine of texts of different `groups`: (mean, low, high).

    Unit vectors (texts, dim). The 95 % bootstrap interval draws texts: pairs are alike.
    """
    group = np.asarray(groups)
    apart = (group[:, None] != group).astype(float)
    cosines = apart * (vectors @ vectors.T)

    def mean(drawn: np.ndarray) -> np.ndarray:
        return (drawn @ cosines * drawn).sum(-1) / (drawn @ apart * drawn).sum(-1)

    return bootstrap(mean, np.eye(len(vectors)), samples, seed)
