"""Page 05: the loss of one row, LoRA's parameters, and who competes in a batch."""

import numpy as np

from exercises import Exercise


def row_loss(scores: np.ndarray, positive: int, temperature: float) -> float:
    """InfoNCE in nats of one query: cosines (documents,), place of the positive."""
    logits = scores / temperature
    return np.log(np.exp(logits).sum()) - logits[positive]


def lora_parameters(shapes: list[tuple[int, int]], r: int) -> int:
    """Trained weights of LoRA of rank r on matrices of (outputs, inputs)."""
    return sum(r * (outputs + inputs) for outputs, inputs in shapes)


def competitors(batch: int, retrieved: int, mixing: str, synthetic: int = 0) -> int:
    """Documents that compete with one positive; `synthetic` queries drew that kind."""
    explicit = batch * (1 + retrieved)
    if mixing == "direct":
        explicit = synthetic + (batch - synthetic) * retrieved
    return batch - 1 + explicit


def _without_positive(scores, positive, temperature):
    logits = scores / temperature
    return np.log(np.exp(np.delete(logits, positive)).sum()) - logits[positive]


def _own_only(batch, retrieved, mixing, synthetic=0):
    return batch - 1 + 1 + retrieved


EXERCISES = [
    Exercise(
        row_loss,
        [
            (np.array([0.7, 0.2, -0.1, 0.6]), 0, 0.05),
            (np.array([0.1, 0.3, 0.2]), 2, 0.5),
        ],
        {
            "the temperature is missing: divide the scores by it": (
                lambda scores, positive, temperature: row_loss(scores, positive, 1.0)
            ),
            "the positive stands in the denominator too": _without_positive,
            "the mean of the exponentials is not their sum: the loss is off by ln n": (
                lambda scores, positive, temperature: (
                    row_loss(scores, positive, temperature) - np.log(len(scores))
                )
            ),
            "the mean of the scores is no log-sum: the hardest must count most": (
                lambda scores, positive, temperature: (
                    (scores.mean() - scores[positive]) / temperature
                )
            ),
            "the sign is turned: a good score must make a small loss": (
                lambda scores, positive, temperature: (
                    -row_loss(scores, positive, temperature)
                )
            ),
        },
    ),
    Exercise(
        lora_parameters,
        [([(576, 576), (192, 576)], 16), ([(1536, 576)], 8)],
        {
            "these are the frozen weights: LoRA trains A (r × inputs) and B (outputs "
            "× r)": lambda shapes, r: sum(o * i for o, i in shapes),
            "B is forgotten: a matrix gets two factors": (
                lambda shapes, r: sum(r * i for _, i in shapes)
            ),
            "A is forgotten: a matrix gets two factors": (
                lambda shapes, r: sum(r * o for o, _ in shapes)
            ),
            "the factors' sizes add up, they are not multiplied with each other": (
                lambda shapes, r: sum(r * o * i for o, i in shapes)
            ),
        },
    ),
    Exercise(
        competitors,
        [(32, 2, "hybrid"), (32, 2, "direct", 10), (8, 3, "direct", 8)],
        {
            "31 + 3 = 34: the explicit negatives of the other queries compete too": (
                _own_only
            ),
            "the positive does not compete with itself": (
                lambda *case: competitors(*case) + 1
            ),
            "the other queries' positives compete too": (
                lambda *case: competitors(*case) - case[0] + 1
            ),
            "direct mixing gives a query one kind only": (
                lambda batch, retrieved, *_: competitors(batch, retrieved, "hybrid")
            ),
        },
    ),
]
