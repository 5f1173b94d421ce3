"""A batch's texts, their vectors in mini-batches, and the gradient of its loss.

GradCache (Gao et al. 2021) so that a large batch fits a small memory, on one process or
several.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from nbutils.core import processes
from nbutils.core.fields import Settings
from nbutils.core.processes import add_up, place
from nbutils.core.records import TrainingInstance
from nbutils.encoder.templates import MULTIPLE
from nbutils.training.curriculum import negatives_for
from nbutils.training.losses import ContrastiveLoss, false_negatives


def together(
    parts: Mapping[int, Tensor], sizes: Sequence[int], model: torch.nn.Module
) -> Tensor:
    """The vectors of every mini-batch, (sum of `sizes`, dim), without a graph.

    `parts` holds this process's; the others' come in one exchange.
    """
    if place()[1] == 1:
        return torch.cat([parts[i] for i in range(len(sizes))]).detach()
    width, device = model.get_embedding_dimension(), model.device
    rows = torch.zeros(sum(sizes), width, device=device).split(sizes)
    for i, part in parts.items():
        rows[i].copy_(part.detach())
    return add_up(rows[0]._base)


def sum_gradients(model: torch.nn.Module) -> None:
    """Add up every process's gradients, all of them in one exchange."""
    if place()[1] == 1:
        return
    trained = [p for p in model.parameters() if p.requires_grad]
    flat = torch.cat(
        [(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trained]
    )
    parts = add_up(flat).split([p.numel() for p in trained])
    for parameter, part in zip(trained, parts, strict=True):
        parameter.grad = part.view_as(parameter).clone()


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
            mixing=settings.training.mixing,
            retrieved=settings.training.retrieved_per_query,
            ratio=settings.training.synthetic_ratio,
            seed=settings.seed,
            step=step,
        )
    ]
    documents = [instance.positive for instance in chosen] + explicit
    return Batch(list(chosen), documents, false_negatives(chosen, documents), level)


@dataclass
class Chunks:
    """Texts in groups that go through the model together, and the way back.

    `groups` holds features, each (texts, tokens); `order` maps the asked texts to rows
    of the groups' vectors put end to end. Equal texts are one row.
    """

    groups: list[dict[str, Tensor]]
    order: list[int]

    @property
    def sizes(self) -> list[int]:
        """Texts of each group."""
        return [len(group["input_ids"]) for group in self.groups]


def make_chunks(
    model: SentenceTransformer,
    texts: Sequence[str],
    prompts: Sequence[str],
    size: int,
    tokens: int = 0,
) -> Chunks:
    """Group texts of similar length: at most `size` texts a group, and `tokens` tokens.

    Tokens count with their padding; 0: no limit. A text longer than `tokens` is a group
    of its own. Each text is tokenized once, whatever passes follow.
    """
    pairs = list(dict.fromkeys(zip(prompts, texts, strict=True)))
    rows = token_rows(model, pairs)
    lengths = [len(row["input_ids"]) for row in rows]
    by_length = sorted(range(len(rows)), key=lengths.__getitem__)
    groups: list[list[int]] = []
    for i in by_length:  # what comes later is longer: it sets the width of its group
        count = len(groups[-1]) if groups else size
        wide = tokens and (count + 1) * padded_width(lengths[i]) > tokens
        if count == size or wide:
            groups.append([])
        groups[-1].append(i)
    fill = model.tokenizer.pad_token_id
    place = {pairs[i]: row for row, i in enumerate(by_length)}
    return Chunks(
        [_padded([rows[i] for i in group], fill) for group in groups],
        [place[pair] for pair in zip(prompts, texts, strict=True)],
    )


def token_rows(
    model: SentenceTransformer, pairs: Sequence[tuple[str, str]]
) -> list[dict[str, Tensor]]:
    """The features of each (prompt, text) without padding, each (tokens,)."""
    rows: list[dict[str, Tensor]] = [{}] * len(pairs)
    for prompt in dict.fromkeys(prompt for prompt, _ in pairs):
        places = [i for i, pair in enumerate(pairs) if pair[0] == prompt]
        made = model.preprocess([pairs[i][1] for i in places], prompt=prompt or None)
        real = made["attention_mask"].bool()
        for row, i in enumerate(places):
            rows[i] = {key: value[row][real[row]] for key, value in made.items()}
    return rows


def padded_width(length: int) -> int:
    """The width to which texts of at most `length` tokens are padded."""
    return -(-length // MULTIPLE) * MULTIPLE


def _padded(rows: Sequence[dict[str, Tensor]], fill: int) -> dict[str, Tensor]:
    """Rows of features as one batch: `input_ids` padded with `fill`, others with 0."""
    width = padded_width(max(len(row["input_ids"]) for row in rows))
    batch = {}
    for key in rows[0]:
        value = fill if key == "input_ids" else 0
        batch[key] = torch.full((len(rows), width), value)
        for line, row in zip(batch[key], rows, strict=True):
            line[: len(row[key])] = row[key]
    return batch


def group_vectors(model: SentenceTransformer, group: dict[str, Tensor]) -> Tensor:
    """Unit vectors (texts, dim) of one group, with gradient where it is enabled."""
    features = {key: value.to(model.device) for key, value in group.items()}
    return model(features)["sentence_embedding"]


def batch_chunks(
    model: SentenceTransformer, batch: Batch, settings: Settings
) -> Chunks:
    """A batch's queries, then its documents. Instructions go on queries only."""
    prompted = settings.encoder.text_format != "plain"
    queries = [instance.query for instance in batch.instances]
    prompts = [i.instruction if prompted else "" for i in batch.instances]
    prompts += [""] * len(batch.documents)
    return make_chunks(
        model,
        queries + batch.documents,
        prompts,
        settings.training.mini_batch,
        settings.training.mini_batch_tokens,
    )


def batch_loss(model: SentenceTransformer, batch: Batch, settings: Settings) -> Tensor:
    """The loss of one batch, with the whole batch's activations kept in one graph."""
    chunks = batch_chunks(model, batch, settings)
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
    chunks = batch_chunks(model, batch, settings)
    mine = processes.share(len(chunks.groups))
    devices = [model.device] if model.device.type == "cuda" else []
    states, parts = {}, {}
    with torch.set_grad_enabled(not settings.training.gradient_cache):
        for i in mine:
            states[i] = _random_state(devices)
            parts[i] = group_vectors(model, chunks.groups[i])
    vectors = together(parts, chunks.sizes, model).requires_grad_()
    loss = vectors_loss(vectors[chunks.order], batch, settings)
    loss.backward()
    gradients = vectors.grad.split(chunks.sizes)
    for i in mine:
        if settings.training.gradient_cache:
            with torch.random.fork_rng(devices):
                _set_random_state(states[i], devices)
                parts[i] = group_vectors(model, chunks.groups[i])
        parts.pop(i).backward(gradients[i])
    sum_gradients(model)
    return loss.detach()


def _random_state(devices: list) -> tuple:
    return torch.get_rng_state(), [torch.cuda.get_rng_state(d) for d in devices]


def _set_random_state(state: tuple, devices: list) -> None:
    torch.set_rng_state(state[0])
    for device, value in zip(devices, state[1], strict=True):
        torch.cuda.set_rng_state(value, device)
