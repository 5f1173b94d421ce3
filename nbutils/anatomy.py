"""What the decoder has become: its losses, its text, its sinks, its vectors.

Each function measures one thing on a model folder and returns a table; nothing here
trains.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.modules import Normalize
from torch.nn import functional

from nbutils import anchors
from nbutils.backbone import Backbone
from nbutils.errors import LabError
from nbutils.evaluation import INSTRUCTION, ndcg_per_query
from nbutils.ngrams import NGrams
from nbutils.pooling import TokenPooling
from nbutils.statistics import interval, paired_difference, unit_of

ORDER = 3
TOP = 100
"""Documents kept of a ranking: NDCG@10 reads ten."""


def token_losses(model, rows: np.ndarray, batch: int = 16) -> np.ndarray:
    """A causal LM's loss in nats of tokens 1 and on of each row: (rows, tokens − 1)."""
    found = []
    for start in range(0, len(rows), batch):
        ids = torch.from_numpy(rows[start : start + batch].astype(np.int64))
        with torch.inference_mode():
            logits = model(input_ids=ids).logits[:, :-1].float()
        lost = functional.cross_entropy(
            logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none"
        )
        found.append(lost.view(len(ids), -1).numpy())
    return np.concatenate(found)


def losses(
    model, train: np.ndarray, held_out: np.ndarray, length: int, most: int
) -> pd.DataFrame:
    """Loss of the model, a unigram and a trigram model on the same tokens.

    `train` are the tokens that the n-grams are counted on, `held_out` those that are
    predicted, in rows of `length`, at most `most` rows; the first two tokens of a row
    are context only. Columns: model, loss (nats a token), low, high (rows are units),
    perplexity.
    """
    count = min(len(held_out) // length, most)
    if count < 2:
        raise LabError(
            f"{len(held_out)} tokens give no two rows of {length}: give more text"
        )
    rows = np.asarray(held_out[: count * length]).reshape(count, length)
    counted = NGrams(train, model.config.vocab_size, ORDER)
    skipped = ORDER - 1
    measured = {
        "unigram": -counted.first[rows[:, skipped:].astype(int)],
        "trigram": -counted.log_probabilities(rows),
        "decoder": token_losses(model, rows)[:, skipped - 1 :],
    }
    made = []
    for name, values in measured.items():
        mean, low, high = interval(values.mean(1))
        row = {"model": name, "loss": mean, "low": low, "high": high}
        made.append({**row, "perplexity": float(np.exp(mean))})
    return pd.DataFrame(made)


def sample(
    model, tokenizer, prompt: str, count: int = 60, seed: int = 0, heat: float = 0.8
) -> str:
    """`prompt` gone on with for at most `count` tokens, drawn at temperature `heat`."""
    ids = tokenizer(prompt, return_tensors="pt")["input_ids"]
    drawn = torch.Generator().manual_seed(seed)
    for _ in range(count):
        with torch.inference_mode():
            logits = model(input_ids=ids).logits[0, -1].float() / heat
        following = torch.multinomial(logits.softmax(-1), 1, generator=drawn)
        if int(following) == tokenizer.eos_token_id:
            break
        ids = torch.cat([ids, following[None]], dim=1)
    return tokenizer.decode(ids[0], skip_special_tokens=True)


def as_encoder(
    folder: str | Path,
    *,
    bidirectional: bool = True,
    pooling: str = "ata",
    max_length: int = 160,
) -> SentenceTransformer:
    """A decoder's folder as an encoder in the `[INST]` format, before any training."""
    backbone = Backbone(
        str(folder),
        quantization="none",
        bidirectional=bidirectional,
        text_format="inst",
        max_seq_length=max_length,
    )
    dimension = backbone.model.config.hidden_size
    modules = [backbone, TokenPooling(pooling, dimension), Normalize()]
    return SentenceTransformer(modules=modules, device="cpu").eval()


def sinks(
    folder: str | Path, texts: Sequence[str], *, bidirectional: bool
) -> pd.DataFrame:
    """Attention received by class of token in every layer, in shares of the mean.

    Columns layer, class, mean, low, high, texts (units of the intervals). The last
    token is the template's last, `[/INST]`. Attention itself is summed, without ATA's
    logarithm.
    """
    model = as_encoder(folder, bidirectional=bidirectional)
    return anchors.by_layer(model, texts, samples=2000, seed=0, transform="sum")


@dataclass(frozen=True)
class Collection:
    """Queries, documents and judgements of a retrieval set, all by id."""

    name: str
    queries: Mapping[str, str]
    documents: Mapping[str, str]
    qrels: Mapping[str, Mapping[str, int]]


def ndcg(queries: np.ndarray, documents: np.ndarray, data: Collection) -> pd.Series:
    """NDCG@10 of every query from unit vectors, in the order of the collection."""
    names = np.array(list(data.documents))
    run = {}
    for query, row in zip(data.queries, queries @ documents.T, strict=True):
        best = np.argpartition(-row, min(TOP, len(row) - 1))[:TOP]
        run[query] = dict(zip(names[best], row[best].astype(float), strict=True))
    return ndcg_per_query(run, data.qrels)


def retrieval(
    folder: str | Path, data: Collection, *, bidirectional: bool, max_length: int
) -> dict[str, pd.Series]:
    """NDCG@10 of every query by pooling, of a decoder's folder as an encoder."""
    model = as_encoder(folder, bidirectional=bidirectional, max_length=max_length)
    queries = anchors.pooled(model, list(data.queries.values()), prompt=INSTRUCTION)
    documents = anchors.pooled(model, list(data.documents.values()))
    return {mode: ndcg(queries[mode], documents[mode], data) for mode in queries}


def against(scores: Mapping[str, pd.Series], base: str) -> pd.DataFrame:
    """Mean score of each kind, and its paired difference from `base`, queries paired.

    Columns: kind, score, difference, low, high, distinguishable. Tasks are the units of
    the interval where queries belong to one.
    """
    rows = []
    units = [unit_of(query) for query in scores[base].index]
    for kind, values in scores.items():
        gain = paired_difference(
            scores[base].to_numpy(),
            values.loc[scores[base].index].to_numpy(),
            units=units,
        )
        gain["difference"] = gain.pop("mean")
        rows.append({"kind": kind, "score": float(values.mean()), **gain})
    return pd.DataFrame(rows)
