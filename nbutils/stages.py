"""The stages of pretraining as data, in their order.

The token embeddings learn first, alone. On them a decoder learns to predict text, then
the template; then it attends both ways (LLM2Vec) and learns from pairs (E5's first
stage) and from a teacher's vectors, last among near texts, to be an encoder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nbutils.bags import Words
from nbutils.distillation import Distill, Neighbours
from nbutils.lessons import Lesson, Packed, Work
from nbutils.pairs import Contrast, Instruct
from nbutils.settings import Pretraining


@dataclass(frozen=True)
class Stage:
    """One stage: its lesson, whether it attends both ways, whether it predicts tokens.

    A stage with a `head` trains the causal LM, one without the bare transformer. The
    token embeddings learn `alone`, rest (`frozen`) or learn with the layers (`free`).
    """

    name: str
    lesson: Callable[[Work], Lesson]
    bidirectional: bool
    head: bool
    embeddings: str
    text: str

    def rate(self, settings: Pretraining) -> float:
        """Peak learning rate."""
        if self.embeddings == "alone":
            return settings.words_rate
        return settings.learning_rate if self.head else settings.encoder_rate

    def steps(self, settings: Pretraining) -> int:
        """Steps of the whole stage."""
        return getattr(settings, f"{self.name}_steps")


def _masked(work: Work) -> Lesson:
    return Packed(work, masked=True)


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("words", Words, False, True, "alone", "token embeddings alone"),
        Stage("lm", Packed, False, True, "frozen", "next-token loss"),
        Stage("instruct", Instruct, False, True, "frozen", "the same in the template"),
        Stage("mntp", _masked, True, True, "frozen", "masked-next-token prediction"),
        Stage("contrast", Contrast, True, False, "free", "pairs of a page"),
        Stage("distill", Distill, True, False, "free", "the vectors of a teacher"),
        Stage("neighbours", Neighbours, True, False, "free", "the same, near texts"),
    )
}
