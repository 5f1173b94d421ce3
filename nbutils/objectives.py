"""What the decoder is trained for: one function a loss, from tensors to a scalar.

`model` is a causal LM for the first two and the bare transformer for the others. The
direction of its attention is the model's own (`backbone.make_bidirectional`).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from nbutils.losses import ContrastiveLoss
from nbutils.pooling import token_weights

IGNORED = -100
"""A label that is not asked for, as in transformers."""


def predict_next(
    model, inputs: Tensor, labels: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Cross-entropy, in nats a token, of labels[i] given the output at token i − 1.

    `inputs` and `labels` are (batch, tokens), `mask` 1 for real tokens; a label of
    IGNORED is not asked for, and no logits are computed for it. With inputs as labels
    this is the next-token loss; with masked inputs and both directions of attention it
    is masked-next-token prediction (LLM2Vec, section 2).
    """
    hidden = model.model(input_ids=inputs, attention_mask=mask).last_hidden_state
    wanted = labels[:, 1:] != IGNORED
    logits = model.lm_head(hidden[:, :-1][wanted])
    return functional.cross_entropy(logits.float(), labels[:, 1:][wanted])


def mask_tokens(
    ids: Tensor, real: Tensor, mask_id: int, share: float, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """(inputs, labels) for masked-next-token prediction.

    Every real token but the first is masked with probability `share`; all masked ones
    are replaced by `mask_id`. At least one token of a batch is masked.
    """
    drawn = torch.rand(ids.shape, generator=generator)
    drawn[real == 0] = 2.0
    drawn[:, 0] = 2.0  # nothing stands before it to predict it from
    chosen = drawn < max(share, float(drawn.min()) + 1e-9)
    inputs = ids.masked_fill(chosen, mask_id)
    return inputs, ids.masked_fill(~chosen, IGNORED)


def vectors_of(model, features: dict[str, Tensor]) -> Tensor:
    """Unit vectors (texts, dim), float32: the mean over `pooling_mask`.

    `features` as of `templates.tokenize`.
    """
    hidden = model(
        input_ids=features["input_ids"], attention_mask=features["attention_mask"]
    ).last_hidden_state
    weights = token_weights("mean", features["pooling_mask"])
    pooled = (hidden.float() * weights[:, :, None]).sum(1)
    return functional.normalize(pooled, dim=-1)


def contrast(
    queries: Tensor, documents: Tensor, same: Tensor, temperature: float
) -> Tensor:
    """InfoNCE both ways over pairs, in-batch negatives (E5, first stage).

    `queries` and `documents` are unit vectors (batch, dim); `same` (batch, batch) is
    true where document j is no negative of query i.
    """
    loss = ContrastiveLoss(temperature, symmetric=True)
    with torch.autocast(queries.device.type, enabled=False):  # half of the bits is few
        return loss(queries, documents, same)


def bag_vectors(table: Tensor, bags: tuple[Tensor, Tensor]) -> Tensor:
    """Unit vectors (texts, dim): the mean of each text's rows of `table` (tokens, dim).

    `bags` are the tokens of all texts, one after another, and where each text begins.
    """
    ids, starts = bags
    found = functional.embedding_bag(ids, table, starts, mode="mean")
    return functional.normalize(found, dim=-1)


def distil(vectors: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Distillation of a teacher's vectors: its directions and its neighbourhoods.

    `vectors` and `targets` are unit vectors (batch, dim). The first term is one minus
    the cosine of each pair. The second is the cross-entropy, less its smallest value
    (Kullback-Leibler), between the shares of similarity to the batch's other texts,
    softmax(similarity / temperature): what ranking depends on.
    """
    cosine = (vectors * targets).sum(-1)
    own = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    if len(vectors) < 3:  # of two texts, the other's share is always one
        return (1 - cosine).mean()
    with torch.autocast(vectors.device.type, enabled=False):  # as in `contrast`
        student, teacher = (
            (v @ v.T / temperature).masked_fill(own, -1e4).log_softmax(-1)
            for v in (vectors, targets)
        )
    near = functional.kl_div(student, teacher, log_target=True, reduction="batchmean")
    return (1 - cosine).mean() + near
