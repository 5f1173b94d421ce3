"""The records that flow from room to room, frozen and checked when they are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

Level = Literal["N1", "N2", "N3", "N4"]
LEVELS: tuple[Level, ...] = ("N1", "N2", "N3", "N4")
"""N1 is the hardest negative, N4 the easiest (Negative Matters, MGH)."""

Split = Literal["train", "dev", "held-out-tasks", "held-out-family"]
HELD_OUT_FAMILY = "industry"

GROUPS = ("short-long", "long-short", "short-short", "long-long", "sts")


class Record(BaseModel):
    """Base of all records: no unknown field, no silent conversion, no change."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Task(Record):
    """One brainstormed embedding task (E5-mistral, stage 1)."""

    id: str
    family: str
    group: str
    index: int
    text: str = Field(min_length=1)
    split: Split


class GradedExample(Record):
    """A query, its positive and four negatives of falling similarity, N1 to N4."""

    id: str
    family: str
    group: str
    task_id: str
    task: str
    query: str = Field(min_length=1)
    positive: str = Field(min_length=1)
    negatives: tuple[str, str, str, str]
    split: Split

    def documents(self) -> dict[str, str]:
        """Document id to text: the positive `…/P`, then `…/N1` to `…/N4`."""
        named = zip(("P", *LEVELS), (self.positive, *self.negatives), strict=True)
        return {f"{self.id}/{name}": text for name, text in named}


class RetrievalItem(Record):
    """A query with three independent positives; the first is the labelled one.

    The other two are true positives that stay unlabelled on purpose: a miner that
    takes one of them has taken a false negative, and it can be counted exactly.
    """

    id: str
    family: str
    domain: str
    query: str = Field(min_length=1)
    title: str = Field(min_length=1)
    positives: tuple[str, str, str]
    split: Split

    def documents(self) -> dict[str, str]:
        """Document id to text: `…/P0` is labelled, `…/P1` and `…/P2` are planted."""
        return {f"{self.id}/P{i}": text for i, text in enumerate(self.positives)}


class SynegExample(Record):
    """Two hard negatives that SyNeg's self-reflection prompt wrote for an item."""

    id: str
    item_id: str
    family: str
    attribute: Literal["matched", "free", "none"]
    level: str
    reasoning: str
    negatives: tuple[str, str]
    split: Split


class Verdict(Record):
    """A language model's word on whether a passage answers a query, and why."""

    id: str
    query_id: str
    document_id: str
    answers: bool
    reason: str


class Rejection(Record):
    """An answer that did not become a record, and why."""

    id: str
    reason: str
    detail: str


class TrainingInstance(Record):
    """A query with its positive and everything that may serve as its negative.

    `graded` maps a level to its text; `synthetic` are SyNeg's; `retrieved` are mined.
    `known_positives` are further right answers: never its negatives.
    """

    id: str
    dataset: str
    instruction: str
    query: str
    positive: str
    graded: dict[str, str] = {}
    synthetic: tuple[str, ...] = ()
    retrieved: tuple[str, ...] = ()
    known_positives: tuple[str, ...] = ()


R = TypeVar("R", bound=BaseModel)


def split_of(family: str, task_index: int | None, tasks: int, example: int) -> Split:
    """The split of an example of task `task_index` (of `tasks` in its group).

    The family `industry` and the last task of each group are held out. Of every other
    task the last recorded example (number 5) is for development. Items without a task
    (`task_index` None) follow their family.
    """
    if family == HELD_OUT_FAMILY:
        return "held-out-family"
    if task_index is None:
        return "train"
    if task_index == tasks - 1:
        return "held-out-tasks"
    return "dev" if example == 5 else "train"


@dataclass(frozen=True)
class Records:
    """Everything that synthesis yields, and what was refused on the way."""

    tasks: list[Task] = field(default_factory=list)
    graded: list[GradedExample] = field(default_factory=list)
    items: list[RetrievalItem] = field(default_factory=list)
    syneg: list[SynegExample] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)
