"""A batch's texts, their vectors in mini-batches, and the gradient of its loss.

GradCache (Gao et al. 2021) so that a large batch fits a small memory, on one process or
several.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from nbutils import distributed
from nbutils.curriculum import negatives_for
from nbutils.losses import ContrastiveLoss, false_negatives
from nbutils.records import TrainingInstance
from nbutils.settings import Settings


@dataclass
class Batch:
    """One step's texts: queries with instructions, positives first in `documents`."""

    instances: list[TrainingInstance]
    documents: list[str]
    excluded: Tensor
    level: str


def make_batch(
    chosen: Sequence[TrainingInstance],
    level: str,
    settings: Settings,
    step: int,
) -> Batch:
    """The texts of one step, by the settings' mixing."""
    explicit = [
        text
        for instance in chosen
        for text in negatives_for(
            instance,
            level,
            mixing=settings.mixing,
            retrieved=settings.retrieved_per_query,
            ratio=settings.synthetic_ratio,
            seed=settings.seed,
            step=step,
        )
    ]
    documents = [instance.positive for instance in chosen] + explicit
    return Batch(list(chosen), documents, false_negatives(chosen, documents), level)


@dataclass
class Chunks:
    """Texts in groups that go through the model together, and the way back.

    `groups` holds (prompt, texts); `order` maps the asked texts to rows of the groups'
    vectors put end to end. Equal texts are one row.
    """

    groups: list[tuple[str, list[str]]]
    order: list[int]


def make_chunks(texts: Sequence[str], prompts: Sequence[str], size: int) -> Chunks:
    """Group texts of one prompt and similar length, at most `size` a group."""
    pairs = list(dict.fromkeys(zip(prompts, texts, strict=True)))
    pairs.sort(key=lambda pair: (pair[0], len(pair[1])))
    groups: list[tuple[str, list[str]]] = []
    for prompt, text in pairs:
        if not groups or groups[-1][0] != prompt or len(groups[-1][1]) == size:
            groups.append((prompt, []))
        groups[-1][1].append(text)
    place = {pair: row for row, pair in enumerate(pairs)}
    return Chunks(groups, [place[pair] for pair in zip(prompts, texts, strict=True)])


def group_vectors(model: SentenceTransformer, group: tuple[str, list[str]]) -> Tensor:
    """Unit vectors (texts, dim) of one group, with gradient where it is enabled."""
    prompt, texts = group
    features = model.preprocess(texts, prompt=prompt or None)
    features = {key: value.to(model.device) for key, value in features.items()}
    return model(features)["sentence_embedding"]


def batch_chunks(batch: Batch, settings: Settings) -> Chunks:
    """A batch's queries, then its documents. Instructions go on queries only."""
    prompted = settings.text_format != "plain"
    queries = [instance.query for instance in batch.instances]
    prompts = [i.instruction if prompted else "" for i in batch.instances]
    prompts += [""] * len(batch.documents)
    return make_chunks(queries + batch.documents, prompts, settings.mini_batch)


def batch_loss(model: SentenceTransformer, batch: Batch, settings: Settings) -> Tensor:
    """The loss of one batch, with the whole batch's activations kept in one graph."""
    chunks = batch_chunks(batch, settings)
    vectors = torch.cat([group_vectors(model, group) for group in chunks.groups])
    return vectors_loss(vectors[chunks.order], batch, settings)


def vectors_loss(vectors: Tensor, batch: Batch, settings: Settings) -> Tensor:
    """The loss of a batch from its vectors: queries first, then documents."""
    count = len(batch.instances)
    excluded = batch.excluded.to(vectors.device)
    loss = ContrastiveLoss.of(settings)
    return loss(vectors[:count], vectors[count:], excluded)


def backward(model: SentenceTransformer, batch: Batch, settings: Settings) -> Tensor:
    """The loss, and the gradients of `batch_loss`, mini-batch by mini-batch.

    The loss's gradient is taken at the vectors and sent back through one mini-batch at
    a time. With `gradient_cache` (GradCache) the vectors are made without activations
    and each mini-batch runs once more, with its random state replayed, so that dropout
    is the same in both passes; only one mini-batch's activations are held.

    On several processes each runs its share of the mini-batches. Vectors are put
    together before the loss and gradients after the last mini-batch: one exchange each.
    """
    chunks = batch_chunks(batch, settings)
    mine = distributed.share(len(chunks.groups))
    devices = [model.device] if model.device.type == "cuda" else []
    states, parts = {}, {}
    with torch.set_grad_enabled(not settings.gradient_cache):
        for i in mine:
            states[i] = _random_state(devices)
            parts[i] = group_vectors(model, chunks.groups[i])
    sizes = [len(texts) for _, texts in chunks.groups]
    vectors = distributed.together(parts, sizes, model).requires_grad_()
    loss = vectors_loss(vectors[chunks.order], batch, settings)
    loss.backward()
    gradients = vectors.grad.split(sizes)
    for i in mine:
        if settings.gradient_cache:
            with torch.random.fork_rng(devices):
                _set_random_state(states[i], devices)
                parts[i] = group_vectors(model, chunks.groups[i])
        parts.pop(i).backward(gradients[i])
    distributed.sum_gradients(model)
    return loss.detach()


def _random_state(devices: list) -> tuple:
    return torch.get_rng_state(), [torch.cuda.get_rng_state(d) for d in devices]


def _set_random_state(state: tuple, devices: list) -> None:
    torch.set_rng_state(state[0])
    for device, value in zip(devices, state[1], strict=True):
        torch.cuda.set_rng_state(value, device)
