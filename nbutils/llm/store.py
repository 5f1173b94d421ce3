"""Requests, answers, and the store that keeps every answer raw, as it arrives."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from nbutils.core.errors import LabError
from nbutils.core.settings import Settings
from nbutils.core.shelf import Shelf


@dataclass(frozen=True)
class ChatRequest:
    """What is asked. `id` is for people; the key does not depend on it.

    `messages` are {"role", "content"} dicts; `schema` names the answer's form (or ""),
    `json_schema` is the form; `decoding` holds temperature, top_p and max_tokens;
    `sample` tells repeated askings apart.
    """

    id: str = field(compare=False)
    messages: tuple[dict[str, str], ...]
    schema: str
    model: str
    decoding: Mapping[str, float]
    sample: int = 0
    json_schema: Mapping[str, Any] | None = field(default=None, compare=False)

    def canonical(self) -> str:
        """The request as JSON, sorted and without spaces: what the key hashes."""
        value = {name: getattr(self, name) for name in ("schema", "model", "sample")}
        value["messages"] = list(self.messages)
        value["decoding"] = {name: float(v) for name, v in self.decoding.items()}
        form = {"sort_keys": True, "ensure_ascii": False, "separators": (",", ":")}
        return json.dumps(value, **form)

    @cached_property
    def key(self) -> str:
        """Hex sha256 of the canonical request."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()

    @property
    def tokens(self) -> int:
        """A guess, rather too high, of the prompt's tokens: for limits and budgets."""
        return sum(rough_tokens(message["content"]) for message in self.messages)


def chat_request(
    id: str,
    prompt: str,
    schema: str,
    settings: Settings,
    sample: int = 0,
    json_schema: Mapping[str, Any] | None = None,
) -> ChatRequest:
    """A one-message request under the model and decoding settings in force."""
    messages, llm = ({"role": "user", "content": prompt},), settings.llm
    names = ("temperature", "top_p", "max_tokens")
    decoding = {name: getattr(llm, name) for name in names}
    return ChatRequest(id, messages, schema, llm.model, decoding, sample, json_schema)


def rough_tokens(text: str) -> int:
    """A third of a text's bytes (English has 4 to 5 a token)."""
    return math.ceil(len(text.encode()) / 3)


@dataclass(frozen=True)
class Answer:
    """What came back, unread. `latency` in seconds, `time` in ISO 8601, UTC."""

    key: str
    text: str
    usage: Mapping[str, int] = field(default_factory=dict)
    model: str = ""
    latency: float = 0.0
    time: str = ""
    finish: str = ""

    @property
    def tokens(self) -> tuple[int, int]:
        """Those of the prompt and of the answer, as the server counted them."""
        names = "prompt_tokens", "completion_tokens"
        return tuple(self.usage.get(name, 0) for name in names)


class Unanswered(LabError):
    """One request got no answer, after all retries."""


class Store(Shelf):
    """Every answer of a live model, with its request and no credential.

    One with a text stays even if cut off: what it leads to is another request.
    """

    COLUMNS = ("id", "request", "text", "usage", "model", "latency", "time", "finish")

    def __init__(self, path: str | Path):
        advice = "move it away or set llm_store to another file"
        super().__init__(path, "answers", self.COLUMNS, advice)

    def answer(self, key: str) -> Answer | None:
        """The stored answer of `key`, or None. LabError if the file is no store."""
        for _, _, text, usage, *rest in self.get([key]).values():
            return Answer(key, text, json.loads(usage), *rest)
        return None

    def keep(self, request: ChatRequest, answer: Answer) -> None:
        """Keep an answer. One without text makes room for it, and stays counted."""
        self._run(
            "UPDATE answers SET key = key || ' blank ' || rowid "
            "WHERE key = ? AND trim(text, char(9, 10, 13, 32)) = ''", [request.key]
        )  # fmt: skip
        row = {**vars(answer), "usage": json.dumps(answer.usage), "id": request.id}
        row["request"] = request.canonical()
        self.put([(request.key, *(row[name] for name in self.COLUMNS))])

    def usage(self) -> list[tuple[str, str, int, int]]:
        """(request id, model asked, prompt tokens, answer tokens) of each answer."""
        return self.read(
            "SELECT id, json_extract(request, '$.model'), "
            "coalesce(json_extract(usage, '$.prompt_tokens'), 0), "
            "coalesce(json_extract(usage, '$.completion_tokens'), 0) FROM answers"
        )

    def __len__(self) -> int:
        return sum(count for (count,) in self.read("SELECT count(*) FROM answers"))
