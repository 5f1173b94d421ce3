"""A prompt: its template, what an answer to it must look like, and its record.

A reply is checked twice: its form by its fields, its texts by `record`, where what the
answer says joins what the plan knows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, RootModel
from pydantic_core import PydanticCustomError

from nbutils.core.fields import Settings
from nbutils.core.files import read_sums, verify
from nbutils.core.records import (
    GradedExample,
    RetrievalItem,
    SynegExample,
    Task,
    split_of,
)
from nbutils.core.settings import DATA
from nbutils.core.text import has_spaces, words
from nbutils.llm.store import ChatRequest, chat_request
from nbutils.synthesis.parsing import Rejected, check_texts

TEMPLATES = DATA / "prompts"


@cache
def templates() -> dict[str, str]:
    """The shipped templates by name: a changed one would be another request."""
    verify(TEMPLATES)
    return {Path(n).stem: (TEMPLATES / n).read_text() for n in read_sums(TEMPLATES)}


@dataclass(frozen=True)
class Prompt:
    """`template` is the name of a file, `reply` what must come back: a model.

    Its `record(request)` makes a record (or a list of them), or raises `Rejected`.
    """

    template: str
    reply: type[BaseModel]

    @cached_property
    def schema(self) -> dict[str, Any]:
        """The JSON schema of a reply, for servers with structured output."""
        return self.reply.model_json_schema()


@dataclass(frozen=True)
class Planned:
    """A request before it is rendered: a prompt and what fills it.

    `variables` may hold more than the template names: what the answer is checked by.
    `known` are the fields of its record that no answer decides; `words` how many words
    are asked for in all (0: not said). `sample` tells equal texts of a stage apart: the
    draws of two examples of a task often coincide.
    """

    id: str
    prompt: Prompt
    variables: Mapping[str, Any]
    sample: int = 0
    known: Mapping[str, Any] = field(default_factory=dict)
    words: int = 0

    @property
    def stage(self) -> str:
        return self.id.split("/")[1]

    @property
    def text(self) -> str:
        """The prompt as the model reads it."""
        return templates()[self.prompt.template].format(**self.variables)

    def chat(self, settings: Settings) -> ChatRequest:
        """The request that goes to the client."""
        name, schema = self.prompt.template, self.prompt.schema
        return chat_request(self.id, self.text, name, settings, self.sample, schema)


class Reply(BaseModel):
    """No unknown key, no silent conversion."""

    model_config = ConfigDict(extra="forbid", strict=True)


class TasksReply(RootModel[list[str]]):
    """The tasks of one group in one family, in the order of the answer."""

    model_config = ConfigDict(strict=True)

    def record(self, request: Planned) -> list[Task]:
        texts, wanted, made = self.root, request.variables["num_tasks"], []
        if len(texts) != wanted:
            raise Rejected("wrong_count", f"{len(texts)} tasks instead of {wanted}")
        check_texts(texts, repeats=True)
        for n, text in enumerate(texts):
            split = split_of(request.known["family"], n, wanted, 0)
            own = {"index": n, "text": text.strip(), "split": split, **request.known}
            made.append(Task(id=f"{request.id}/{n}", **own))
        return made


class SeedReply(Reply):
    """A query with three independent positives."""

    query: str
    title: str
    positives: list[str] = Field(min_length=3, max_length=3)

    def record(self, request: Planned) -> RetrievalItem:
        check_texts(self.positives, request.variables["num_words"])
        check_texts([self.query], given=self.positives)
        check_texts([self.title])
        said = {"query": self.query.strip(), "title": self.title.strip()}
        said["positives"] = tuple(self.positives)
        return RetrievalItem(id=request.id, **request.known, **said)


LEVEL_NAMES = ["high", "medium", "medium", "low"]
"""What a prompt calls N1 to N4."""


class GradedText(Reply):
    similarity_level: Literal["high", "medium", "low"]
    text: str


def _in_order(negatives: list[GradedText]) -> tuple[str, ...]:
    """The texts of N1 to N4, where the levels are as they were asked for."""
    levels = [negative.similarity_level for negative in negatives]
    if levels != LEVEL_NAMES:
        raise PydanticCustomError("wrong_levels", f"levels are {', '.join(levels)}")
    return tuple(negative.text for negative in negatives)


Ladder = Annotated[
    list[GradedText], Field(min_length=4, max_length=4), AfterValidator(_in_order)
]
Pair = Annotated[list[str], Field(min_length=2, max_length=2)]


class MghReply(Reply):  # in this order a server with structured output writes them
    """A query, its positive and N1 to N4 (Negative Matters, MGH's answer keys)."""

    query: str
    positive_example: str
    hard_negative_examples: Ladder

    def record(self, request: Planned) -> GradedExample:
        query, positive = self.query, self.positive_example
        negatives, asked = self.hard_negative_examples, request.variables
        check_texts([query], asked["query_words"])
        check_texts([positive, *negatives], asked["document_words"], given=[query])
        said = {"query": query.strip(), "positive": positive, "negatives": negatives}
        return GradedExample(id=request.id, **request.known, **said)


class SynegPlainReply(Reply):
    """Two hard negatives, by a prompt that asks for no reflection."""

    hard_negatives: Pair

    def record(self, request: Planned, reasoning: str = "") -> SynegExample:
        positive, negatives = request.variables["positive"], self.hard_negatives
        wanted = len(words(positive)) if has_spaces(positive) else 0
        check_texts(negatives, wanted, given=[positive])
        said = {"reasoning": reasoning, "negatives": tuple(negatives)}
        return SynegExample(id=request.id, **request.known, **said)


class SynegReply(Reply):
    """Two hard negatives after the reasoning that led to them (SyNeg's format)."""

    reasoning: str
    hard_negatives: Pair

    def record(self, request: Planned) -> SynegExample:
        if not self.reasoning.strip():
            raise Rejected("empty_text", "the reasoning is empty")
        return SynegPlainReply.record(self, request, self.reasoning)


BRAINSTORM = Prompt("brainstorm", TasksReply)
SEED = Prompt("seed", SeedReply)
MGH = Prompt("mgh", MghReply)
SYNEG = {
    (True, True): Prompt("syneg", SynegReply),
    (True, False): Prompt("syneg_no_attributes", SynegReply),
    (False, True): Prompt("syneg_no_reflection", SynegPlainReply),
    (False, False): Prompt("syneg_plain", SynegPlainReply),
}
"""SyNeg's prompt with or without its parts (reflection, attributes): its ablation."""
