"""GradCache (Gao et al. 2021): a large batch's gradient in a small memory."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.losses.gradcache import RandContext
from torch import Tensor
from torch.nn.utils import parameters_to_vector, vector_to_parameters

from nbutils.core import processes
from nbutils.core.records import TrainingInstance
from nbutils.core.settings import Settings
from nbutils.encoder.templates import FEATURES, padded, padded_width
from nbutils.training import losses
from nbutils.training.mixing import negatives_for


@dataclass
class Batch:
    """One step's texts, positives first.

    `excluded` and `own`, whose explicit negative a document is, are (queries,
    documents); `synthetic` is (documents,), true for those that a model wrote.
    """

    instances: list[TrainingInstance]
    documents: list[str]
    level: str
    excluded: Tensor
    own: Tensor
    synthetic: Tensor


def make_batch(
    chosen: Sequence[TrainingInstance], level: str, settings: Settings, step: int
) -> Batch:
    """The texts of one step: positives, then every instance's explicit negatives."""
    documents = [instance.positive for instance in chosen]
    owners, written = list(range(len(chosen))), [False] * len(chosen)
    for row, instance in enumerate(chosen):
        own = negatives_for(instance, level, settings, step)
        documents, owners = documents + own, owners + [row] * len(own)
        written += [text not in instance.retrieved for text in own]
    excluded = losses.false_negatives(chosen, documents)
    mine = torch.arange(len(chosen))[:, None] == torch.tensor(owners)
    if not settings.training.in_batch:
        excluded |= ~mine
    mine[:, : len(chosen)] = False  # an instance's positive is its own, too
    marks = excluded, mine & ~excluded, torch.tensor(written)
    return Batch(list(chosen), documents, level, *marks)


def batch_chunks(
    model: SentenceTransformer, batch: Batch, settings: Settings
) -> tuple[list[dict[str, Tensor]], list[int]]:
    """A batch's texts in groups of similar length that go through the model together.

    A group's features are (texts, tokens), of at most `mini_batch` texts and
    `mini_batch_tokens` tokens, padding included; a longer text is a group of its own.
    Equal texts are one row; instructions go on queries only. Also returns the way back:
    for each query, then each document, its row of all groups put end to end.
    """
    prompted = settings.encoder.text_format != "plain"
    pairs = [(i.instruction if prompted else "", i.query) for i in batch.instances]
    pairs += [("", text) for text in batch.documents]
    unique = list(dict.fromkeys(pairs))
    rows = {}
    for prompt in {prompt for prompt, _ in unique}:
        texts = [text for own, text in unique if own == prompt]
        made = model.preprocess(texts, prompt=prompt or None)
        every = torch.stack([made[name] for name in FEATURES], dim=1)
        for text, row in zip(texts, every, strict=True):
            rows[prompt, text] = row[:, row[1].bool()]  # without its padding
    size, tokens = settings.training.mini_batch, settings.training.mini_batch_tokens
    by_length = sorted(unique, key=lambda pair: rows[pair].shape[1])
    groups: list[list[Tensor]] = []
    for pair in by_length:  # what comes later is longer: it sets the group's width
        count = len(groups[-1]) if groups else size
        width = padded_width(rows[pair].shape[1])
        if count == size or (tokens and (count + 1) * width > tokens):
            groups.append([])
        groups[-1].append(rows[pair])
    place = {pair: row for row, pair in enumerate(by_length)}
    batches = [padded(group, model.tokenizer) for group in groups]
    return batches, [place[pair] for pair in pairs]


def group_vectors(model: SentenceTransformer, group: dict[str, Tensor]) -> Tensor:
    """Unit vectors (texts, dim) of one group, with gradient where it is enabled."""
    features = {key: value.to(model.device) for key, value in group.items()}
    return model(features)["sentence_embedding"]


def backward(
    model: SentenceTransformer, batch: Batch, settings: Settings
) -> tuple[Tensor, dict[str, float]]:
    """The loss of one batch and its sources' shares (`losses.source_shares`).

    Its gradient is taken at the vectors and sent back through one mini-batch at a time,
    to be added to the adapters'. With `gradient_cache` (GradCache) the vectors are made
    without activations and each mini-batch runs once more, with its random state
    replayed, so that dropout is the same in both passes. On several processes each runs
    its share of the mini-batches; vectors and gradients are put together in one
    exchange each.
    """
    cached = settings.training.gradient_cache
    groups, order = batch_chunks(model, batch, settings)
    sizes, mine = [len(g["input_ids"]) for g in groups], processes.share(len(groups))
    width = model.get_embedding_dimension()
    vectors = torch.zeros(sum(sizes), width, device=model.device)
    places, states, parts = vectors.split(sizes), {}, {}
    with torch.set_grad_enabled(not cached):
        for i in mine:
            states[i] = RandContext(next(model.parameters()))
            parts[i] = group_vectors(model, groups[i])
            places[i].copy_(parts[i].detach())
    vectors = processes.add_up(vectors).requires_grad_()
    queries, documents = vectors[order].tensor_split([len(batch.instances)])
    chosen, marks = settings.training, (batch.excluded, batch.own, batch.synthetic)
    excluded, own, synthetic = (mark.to(vectors.device) for mark in marks)
    loss = losses.contrastive_loss(queries, documents, excluded, chosen)
    if chosen.causalneg:
        penalty = losses.causal_neg(queries, documents, own, synthetic)
        loss = loss + chosen.causalneg * penalty
    loss.backward()
    scores = queries.detach() @ documents.detach().T / chosen.temperature
    scores = scores.masked_fill(excluded, -torch.inf)
    shares = losses.source_shares(scores, synthetic)
    gradients = vectors.grad.split(sizes)
    for i in mine:
        if cached:
            with states[i]:
                parts[i] = group_vectors(model, groups[i])
        parts.pop(i).backward(gradients[i])
    if processes.place()[1] > 1:
        trained = [p for p in model.parameters() if p.requires_grad]
        for parameter in trained:
            if parameter.grad is None:  # this process had no mini-batch
                parameter.grad = torch.zeros_like(parameter)
        own = [parameter.grad for parameter in trained]
        vector_to_parameters(processes.add_up(parameters_to_vector(own)), own)
    return loss.detach(), shares
