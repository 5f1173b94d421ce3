"""The records that flow from room to room."""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from nbutils.core.files import SUMS, read_jsonl, verify
from nbutils.core.settings import DATA, Settings

RECORDS = DATA / "records"
"""The shipped records: what the recorded answers parse to."""

LEVELS = ("N1", "N2", "N3", "N4")
"""N1 is the hardest negative, N4 the easiest (Negative Matters, MGH)."""

RUNGS = ("P", *LEVELS)
"""A ladder, from the most to the least similar: the positive, then its negatives."""

GROUPS = ("short-long", "long-short", "short-short", "long-long", "sts")
Split = Literal["train", "dev", "held-out-tasks", "held-out-family"]


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
        named = zip(RUNGS, (self.positive, *self.negatives), strict=True)
        return {f"{self.id}/{name}": text for name, text in named}


class RetrievalItem(Record):
    """A query with three independent positives, of which only the first is labelled.

    A miner that takes one of the others has taken a false negative: planted truth.
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
    reasoning: str = ""
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


def split_of(family: str, task_index: int | None, tasks: int, example: int) -> Split:
    """The split of an example of task `task_index` (of `tasks` in its group).

    Held out are the family `industry` and the last task of each group; the last example
    (number 5) of other tasks is for development. Items have no task (None).
    """
    if family == "industry":
        return "held-out-family"
    if task_index is not None and task_index == tasks - 1:
        return "held-out-tasks"
    return "dev" if task_index is not None and example == 5 else "train"


@dataclass(frozen=True)
class Records:
    """Everything that synthesis yields, and what was refused on the way."""

    tasks: list[Task] = field(default_factory=list)
    graded: list[GradedExample] = field(default_factory=list)
    items: list[RetrievalItem] = field(default_factory=list)
    syneg: list[SynegExample] = field(default_factory=list)
    rejections: list[Rejection] = field(default_factory=list)


KINDS: dict[str, type[Record]] = {
    "tasks": Task,
    "graded": GradedExample,
    "items": RetrievalItem,
    "syneg": SynegExample,
}


def read_records(settings: Settings, folder: str | Path = RECORDS) -> Records:
    """The records in `folder` (KIND.jsonl each) of the settings' families, in order.

    With `max_items`: so many graded examples a family, `spread` over groups and splits,
    the first items, and SyNeg's negatives of these. Tasks are always all. LabError for
    a file that is missing, damaged or, in a folder with sums, changed.
    """
    folder, most = Path(folder), settings.synthesis.max_items
    if (folder / SUMS).is_file():
        verify(folder)
    rows = {k: read_jsonl(folder / f"{k}.jsonl", kind) for k, kind in KINDS.items()}
    found: dict[str, list] = {kind: [] for kind in KINDS}
    for family in settings.synthesis.families:
        own = {k: [row for row in rows[k] if row.family == family] for k in KINDS}
        own["graded"] = spread(own["graded"], most, lambda e: (e.group, e.split))
        own["items"] = own["items"][: most or None]
        asked = {item.id for item in own["items"]}
        own["syneg"] = [e for e in own["syneg"] if e.item_id in asked]
        for kind, kept in own.items():
            found[kind] += kept
    return Records(**found)


def spread(
    rows: Sequence[Any], count: int, stratum: Callable[[Any], tuple[str, str]]
) -> list[Any]:
    """The first `count` (0: all) when groups and splits take turns, in their order.

    A short run then still holds every group, and something to train on and to test.
    """
    if not count or count >= len(rows):
        return list(rows)
    strata = [stratum(row) for row in rows]
    groups, splits = (list(dict.fromkeys(part)) for part in zip(*strata, strict=True))
    seen, turns = Counter(), []
    for place, (group, split) in enumerate(strata):
        number = groups.index(group)
        # each group begins with another split than the one before it
        shift = (splits.index(split) - number) % len(splits)
        turns.append((seen[group, split], shift, number, place))
        seen[group, split] += 1
    return [
        rows[place] for place in sorted(place for *_, place in sorted(turns)[:count])
    ]
