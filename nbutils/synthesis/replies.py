"""A prompt: its template, what an answer to it must look like, and its record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, Field, RootModel

from nbutils.core import records
from nbutils.core.fields import Settings
from nbutils.core.files import read_sums, verify
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
    """The name of a template, and the form of a reply.

    The reply's `record(request)` makes a record (or a list), or raises `Rejected`.
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


class Reply(BaseModel, extra="forbid", strict=True):
    """Its fields join what the plan knows in a record, `makes`, if its texts pass.

    A subclass has no docstring: it would be sent to servers, within the schema.
    """

    makes: ClassVar[type[records.Record]]

    def check(self, asked: Mapping[str, Any]) -> None:
        """Rejected for texts that are not as asked for, by a request's variables."""

    def record(self, request: Planned) -> records.Record:
        self.check(request.variables)
        return self.makes(id=request.id, **request.known, **dict(self))


LEVEL_NAMES = ["high", "medium", "medium", "low"]
"""What a prompt calls N1 to N4."""


class GradedText(BaseModel, extra="forbid", strict=True):
    similarity_level: Literal["high", "medium", "low"]
    text: str


def _in_order(negatives: list[GradedText]) -> tuple[str, ...]:
    """The texts of N1 to N4; Rejected where the levels are not as they were asked."""
    levels = [negative.similarity_level for negative in negatives]
    if levels != LEVEL_NAMES:
        raise Rejected("wrong_levels", f"levels are {', '.join(levels)}")
    return tuple(negative.text for negative in negatives)


Line = Annotated[str, AfterValidator(str.strip)]
Pair = Annotated[list[str], Field(min_length=2, max_length=2), AfterValidator(tuple)]
Three = Annotated[list[str], Field(min_length=3, max_length=3), AfterValidator(tuple)]
Ladder = Annotated[
    list[GradedText], Field(min_length=4, max_length=4), AfterValidator(_in_order)
]


class TasksReply(RootModel[list[str]], strict=True):  # of one group in one family
    def record(self, request: Planned) -> list[records.Task]:
        texts, wanted, made = self.root, request.variables["num_tasks"], []
        if len(texts) != wanted:
            raise Rejected("wrong_count", f"{len(texts)} tasks instead of {wanted}")
        for n, text in enumerate(texts):
            check_texts([text])  # one that repeats another is dropped alone, later
            split = records.split_of(request.known["family"], n, wanted, 0)
            own = {"index": n, "text": text.strip(), "split": split, **request.known}
            made.append(records.Task(id=f"{request.id}/{n}", **own))
        return made


class SeedReply(Reply):
    makes = records.RetrievalItem
    query: Line
    title: Line
    positives: Three

    def check(self, asked: Mapping[str, Any]) -> None:
        check_texts(self.positives, asked["num_words"])
        check_texts([self.query], given=self.positives)
        check_texts([self.title])


class MghReply(Reply):  # MGH's keys; a server writes them in this order
    makes = records.GradedExample
    query: Line
    positive: str = Field(alias="positive_example")
    negatives: Ladder = Field(alias="hard_negative_examples")

    def check(self, asked: Mapping[str, Any]) -> None:
        texts, wanted = [self.positive, *self.negatives], asked["document_words"]
        check_texts([self.query], asked["query_words"])
        check_texts(texts, wanted, given=[self.query])


class SynegPlainReply(Reply):
    makes = records.SynegExample
    negatives: Pair = Field(alias="hard_negatives")

    def check(self, asked: Mapping[str, Any]) -> None:
        positive = asked["positive"]
        wanted = len(words(positive)) if has_spaces(positive) else 0
        check_texts(self.negatives, wanted, given=[positive])


class SynegReply(Reply):  # the reasoning goes before what it leads to
    makes = records.SynegExample
    reasoning: str
    negatives: Pair = Field(alias="hard_negatives")

    def check(self, asked: Mapping[str, Any]) -> None:
        if not self.reasoning.strip():
            raise Rejected("empty_text", "the reasoning is empty")
        SynegPlainReply.check(self, asked)


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
