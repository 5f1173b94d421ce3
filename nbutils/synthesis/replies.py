"""What an answer must look like: one reply type a prompt."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class JudgeReply(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    reason: str
    answers: bool


class _Reply(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class SeedReply(_Reply):
    query: str
    title: str
    positives: list[str] = Field(min_length=3, max_length=3)


class GradedText(_Reply):
    similarity_level: Literal["high", "medium", "low"]
    text: str


class MghReply(_Reply):
    query: str
    positive_example: str
    hard_negative_examples: list[GradedText] = Field(min_length=4, max_length=4)


class SynegPlainReply(_Reply):
    hard_negatives: list[str] = Field(min_length=2, max_length=2)


class SynegReply(SynegPlainReply):
    reasoning: str


REPLIES: dict[str, type[_Reply]] = {
    "seed": SeedReply,
    "mgh": MghReply,
    "syneg": SynegReply,
    "syneg_no_attributes": SynegReply,
    "syneg_no_reflection": SynegPlainReply,
    "syneg_plain": SynegPlainReply,
}
SCHEMAS = {name: reply.model_json_schema() for name, reply in REPLIES.items()}
"""The JSON schema of each stage's answer, for servers with structured output."""

LEVEL_NAMES = ["high", "medium", "medium", "low"]


class LadderReply(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    hard_negative_examples: list[GradedText] = Field(min_length=4, max_length=4)


class LevelReply(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    text: str
