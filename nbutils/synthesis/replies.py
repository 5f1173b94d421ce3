"""A prompt: its template, what an answer to it must look like, and who reads it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, RootModel

from nbutils.core.fields import Settings
from nbutils.core.files import read_sums, verify
from nbutils.core.settings import DATA
from nbutils.llm.store import ChatRequest, chat_request

TEMPLATES = DATA / "prompts"


@cache
def templates() -> dict[str, str]:
    """The shipped templates by name: a changed one would be another request."""
    verify(TEMPLATES)
    return {Path(n).stem: (TEMPLATES / n).read_text() for n in read_sums(TEMPLATES)}


@dataclass(frozen=True)
class Prompt:
    """`template` is the name of a file; `reply` what must come back.

    `read` makes a record (or a list of them) of a request and its checked reply, or
    raises `parsing.Rejected`.
    """

    template: str
    reply: type[BaseModel]
    read: Callable[[Planned, Any], Any]


@dataclass(frozen=True)
class Planned:
    """A request before it is rendered: a prompt and what fills it.

    `variables` may hold more than the template names: what the answer is checked by.
    `known` are the fields of its record that no answer decides; `words` how many words
    are asked for in all (0: not said). `sample` numbers the askings of a stage: the
    draws of two examples of a task often coincide, and the same text asked twice must
    not be answered once.
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
        name, schema = self.prompt.template, _schema(self.prompt.reply)
        return chat_request(self.id, self.text, name, settings, self.sample, schema)


@cache
def _schema(reply: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a reply, for servers with structured output."""
    return reply.model_json_schema()


class Reply(BaseModel):
    """No unknown key, no silent conversion."""

    model_config = ConfigDict(extra="forbid", strict=True)


class TasksReply(RootModel[list[str]]):
    model_config = ConfigDict(strict=True)


class SeedReply(Reply):
    query: str
    title: str
    positives: list[str] = Field(min_length=3, max_length=3)


class GradedText(Reply):
    similarity_level: Literal["high", "medium", "low"]
    text: str


LEVEL_NAMES = ["high", "medium", "medium", "low"]
"""What a prompt calls N1 to N4."""


class LadderReply(Reply):
    hard_negative_examples: list[GradedText] = Field(min_length=4, max_length=4)


class MghReply(Reply):  # in this order a server with structured output writes them
    query: str
    positive_example: str
    hard_negative_examples: list[GradedText] = Field(min_length=4, max_length=4)


class LevelReply(Reply):
    text: str


Pair = Annotated[list[str], Field(min_length=2, max_length=2)]


class SynegPlainReply(Reply):
    hard_negatives: Pair


class SynegReply(Reply):
    reasoning: str
    hard_negatives: Pair


class JudgeReply(Reply):
    reason: str
    answers: bool
