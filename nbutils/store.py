"""Requests, answers, and the file that keeps every answer as it arrives.

An answer's key is a hash of the whole request. Answers are stored raw, as they come;
reading them as records is a separate, pure step (`nbutils.parsing`).
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from nbutils.errors import LabError

UNFINISHED = ("length", "content_filter")
"""Reasons why a server stopped that leave an answer in the middle."""


@dataclass(frozen=True)
class ChatRequest:
    """What is asked. `id` is for people; the key does not depend on it.

    `messages` are {"role", "content"} dicts; `schema` is a name or ""; `decoding` holds
    temperature, top_p and max_tokens; `sample` tells repeated askings apart.
    """

    id: str = field(compare=False)
    messages: tuple[dict[str, str], ...]
    schema: str
    model: str
    decoding: Mapping[str, float]
    sample: int = 0

    def canonical(self) -> str:
        """The request as JSON with sorted keys and no spaces: what the key hashes."""
        value = {
            "messages": list(self.messages),
            "schema": self.schema,
            "model": self.model,
            "decoding": {name: float(v) for name, v in self.decoding.items()},
            "sample": self.sample,
        }
        return json.dumps(
            value, sort_keys=True, ensure_ascii=False, separators=(",", ":")
        )

    @cached_property
    def key(self) -> str:
        """Hex sha256 of the canonical request."""
        return hashlib.sha256(self.canonical().encode()).hexdigest()


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
    def whole(self) -> bool:
        """Whether the model came to its end and said something."""
        return bool(self.text.strip()) and self.finish not in UNFINISHED


class Store:
    """Answers in one sqlite file (WAL), written as each arrives.

    Several threads and processes may write; a whole answer that is there stays, one
    that was cut off, filtered or empty gives way to the next.
    The file is made on the first write. No credential is ever among its columns.
    """

    COLUMNS = "key, id, request, text, usage, model, latency, time, finish"

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def get(self, key: str) -> Answer | None:
        """The stored answer of `key`, or None. LabError if the file is no store."""
        if self._connection is None and not self.path.is_file():
            return None
        rows = self._execute(
            "SELECT key, text, usage, model, latency, time, finish "
            "FROM answers WHERE key = ?",
            (key,),
        )
        if not rows:
            return None
        key, text, usage, *rest = rows[0]
        return Answer(key, text, json.loads(usage), *rest)

    def put(self, request: ChatRequest, answer: Answer) -> None:
        """Keep an answer; it is on disk when this returns."""
        row = (
            answer.key, request.id, request.canonical(), answer.text,
            json.dumps(dict(answer.usage)), answer.model, answer.latency,
            answer.time, answer.finish,
        )  # fmt: skip
        names = self.COLUMNS.split(", ")[1:]
        anew = ", ".join(f"{name} = excluded.{name}" for name in names)
        self._execute(
            f"INSERT INTO answers ({self.COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) "
            f"ON CONFLICT (key) DO UPDATE SET {anew} "
            "WHERE answers.finish IN (?, ?) OR trim(answers.text, ?) = ''",
            (*row, *UNFINISHED, " \t\r\n"),
        )

    def __len__(self) -> int:
        if self._connection is None and not self.path.is_file():
            return 0
        return self._execute("SELECT count(*) FROM answers")[0][0]

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _execute(self, statement: str, values: tuple = ()) -> list[tuple]:
        with self._lock:
            try:
                if self._connection is None:
                    self._connection = self._open()
                with self._connection:
                    return self._connection.execute(statement, values).fetchall()
            except sqlite3.Error as error:
                raise LabError(
                    f"the answer store {self.path} cannot be used ({error}): "
                    "move it away or set llm_store to another file"
                ) from None

    def _open(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=60, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS answers (key TEXT PRIMARY KEY, id TEXT, "
                "request TEXT, text TEXT, usage TEXT, model TEXT, latency REAL, "
                "time TEXT, finish TEXT)"
            )
        except sqlite3.Error:
            connection.close()
            raise
        return connection
