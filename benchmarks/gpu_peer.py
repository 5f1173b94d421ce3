"""The peer on one GPU: sentence-transformers with peft, as they are documented.

Both sides train the same shape, adapters, precision and batch; `bench gpu` asks for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

import torch
from peft import LoraConfig, prepare_model_for_kbit_training
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer import losses
from sentence_transformers.sentence_transformer.modules import Pooling, Transformer
from transformers import MistralConfig

from benchmarks import harness, training
from benchmarks.shape import (
    QUERIES,
    Row,
    peak_gb,
    random_model,
    recorded,
    steps_of,
    student,
)
from nbutils.core.fields import Settings
from nbutils.core.settings import ROOT
from nbutils.encoder.backbone import keep_differentiable
from nbutils.encoder.models import quiet, tiny_folder
from nbutils.training import gradcache


def peer_model(
    config: MistralConfig, settings: Settings, device: str, *, upcast: bool
) -> SentenceTransformer:
    """sentence-transformers with peft on the same weights, as they are documented.

    `upcast`: with `prepare_model_for_kbit_training`, which casts to 32 bits what is not
    in 4.
    """
    with quiet():
        transformer = Transformer(
            str(tiny_folder("tiny-mistral", ROOT / ".cache")),
            max_seq_length=settings.encoder.max_length,
        )
    inner = random_model(config, device, attention="sdpa")
    if upcast:
        inner = prepare_model_for_kbit_training(
            inner, gradient_checkpointing_kwargs={"use_reentrant": False}
        )
    transformer.model = inner
    model = SentenceTransformer(
        modules=[transformer, Pooling(config.hidden_size, "mean")], device=device
    )
    model.add_adapter(
        LoraConfig(
            r=settings.encoder.lora_r, lora_alpha=settings.encoder.lora_alpha,
            target_modules="all-linear",
        )
    )  # fmt: skip
    keep_differentiable(model)
    return model


def _ours(config, settings: Settings, device: str, batch, steps: int):
    """(texts a second, GB at the peak); the model is let go of on the way out."""
    clock = steps_of(student(config, settings, device), batch, settings)
    peak = peak_gb(device, lambda: next(clock))
    texts = len(batch.instances) + len(batch.documents)
    return texts / median(next(clock) for _ in range(steps)), peak


def peer_rows(
    config: MistralConfig,
    settings: Settings,
    device: str,
    queries: int = QUERIES,
    steps: int = 2,
) -> Iterator[Row]:
    """Rows `step_vs_st`: texts a second and GB; peer: the library's own cached loss.

    Same shape, adapters, precision, attention (causal), pooling (mean), batch of
    recorded triplets and limit of a mini-batch; gradient checkpointing on both sides.
    """
    changes = {
        "mixing": "synthetic", "pooling": "mean", "bidirectional": False,
        "text_format": "plain", "batch_size": queries,
    }  # fmt: skip
    same = settings.changed(**changes)
    batch = gradcache.make_batch(recorded(queries), "N2", same, 0)
    texts = 3 * queries
    our_rate, our_peak = _ours(config, same, device, batch, steps)
    columns = training.peer_columns([batch])
    for upcast in (False, True):
        name = "with" if upcast else "without"
        model = peer_model(config, same, device, upcast=upcast)
        loss = losses.CachedMultipleNegativesRankingLoss(
            model,
            scale=1 / same.training.temperature,
            mini_batch_size=same.training.mini_batch,
        )
        found: list[float] = []

        def measured(model=model, loss=loss, found=found) -> None:
            found.append(
                training.peer_round(
                    model, loss, columns, same, steps,
                    optim="adamw_torch" if device == "cpu" else same.training.optimizer,
                    gradient_checkpointing=True,
                    gradient_checkpointing_kwargs={"use_reentrant": False},
                )
            )  # fmt: skip

        try:
            peak = peak_gb(device, measured)
        except torch.OutOfMemoryError:
            print(f"the peer {name} the k-bit upcast does not fit this card")
            continue
        told = f"step_vs_st {name} k-bit upcast"
        yield harness.row(
            f"{told}, speed", our_rate, "texts a second", texts / found[0]
        )
        yield harness.row(f"{told}, memory", our_peak, "GB", peak)
