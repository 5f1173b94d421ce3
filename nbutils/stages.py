"""The stages of pretraining as data: lm, instruct, mntp, words, contrast, distill.

A decoder learns to predict text, then the template; then it attends both ways (LLM2Vec)
and learns from pairs (E5's first stage), at first with its token embeddings alone, and
from a teacher's vectors to be an encoder.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from nbutils.distillation import Distill
from nbutils.lessons import Lesson, Packed, Work
from nbutils.pairs import Contrast, Instruct, Words
from nbutils.settings import Pretraining


@dataclass(frozen=True)
class Stage:
    """One stage: its lesson, whether it attends both ways, whether it predicts tokens.

    A stage with a `head` trains the causal LM, one without the bare transformer, or of
    it the `embeddings_only`.
    """

    name: str
    lesson: Callable[[Work], Lesson]
    bidirectional: bool
    head: bool
    text: str
    embeddings_only: bool = False

    def rate(self, settings: Pretraining) -> float:
        """Peak learning rate."""
        return settings.words_rate if self.embeddings_only else settings.learning_rate

    def steps(self, settings: Pretraining) -> int:
        """Steps of the whole stage."""
        return getattr(settings, f"{self.name}_steps")


def _masked(work: Work) -> Lesson:
    return Packed(work, masked=True)


STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage("lm", Packed, False, True, "next-token loss"),
        Stage("instruct", Instruct, False, True, "next-token loss in the template"),
        Stage("mntp", _masked, True, True, "masked-next-token prediction, both ways"),
        Stage("words", Words, True, False, "token embeddings alone, pairs", True),
        Stage("contrast", Contrast, True, False, "pairs of a page, in-batch negatives"),
        Stage("distill", Distill, True, False, "the vectors of a teacher"),
    )
}
