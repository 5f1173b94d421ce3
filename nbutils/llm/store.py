"""Requests, answers, and the file that keeps every answer as it arrives.

An answer's key is a hash of the whole request. Answers are stored raw, as they come;
reading them as records is a separate, pure step (`nbutils.parsing`).
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from nbutils.core.errors import LabError

UNFINISHED = {"length": "cut_off", "content_filter": "filtered"}
"""Why a server stopped in the middle of an answer, and the reason it is refused for."""


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


@dataclass
class _Row:
    """An answer on its way to the disk."""

    values: tuple
    kept: bool = False


class Store:
    """Answers in one sqlite file (WAL), on disk before `put` returns.

    Several threads and processes may write. An answer that is there stays, also one
    that was cut off: it was paid for, and what it leads to is another request. Answers
    that arrive while the disk is busy are written together, so that a commit costs the
    same for one as for sixty. The file is made on the first write. No credential is
    ever among its columns.
    """

    COLUMNS = "key, id, request, text, usage, model, latency, time, finish"

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._lock = threading.Lock()
        self._writing = threading.Lock()  # one writer at a time; readers do not wait
        self._waiting: deque[_Row] = deque()
        self._connection: sqlite3.Connection | None = None

    def get(self, key: str) -> Answer | None:
        """The stored answer of `key`, or None. LabError if the file is no store."""
        rows = self._read(
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
        row = _Row((
            answer.key, request.id, request.canonical(), answer.text,
            json.dumps(dict(answer.usage)), answer.model, answer.latency,
            answer.time, answer.finish,
        ))  # fmt: skip
        self._waiting.append(row)
        with self._writing:
            if row.kept:
                return  # it went with another thread's commit
            rows = [self._waiting.popleft() for _ in range(len(self._waiting))]
            try:
                with self._lock:
                    self._run(
                        f"INSERT OR IGNORE INTO answers ({self.COLUMNS}) "
                        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                        [one.values for one in rows],
                    )
            except LabError:
                self._waiting.extend(rows)  # each of their threads tries for itself
                raise
            for one in rows:
                one.kept = True

    def reject(self, request: ChatRequest, reason: str, detail: str) -> None:
        """Note why the stored answer to `request` did not become a record."""
        with self._lock:
            self._run(
                "INSERT OR REPLACE INTO rejections VALUES (?, ?, ?, ?)",
                [(request.key, request.id, reason, detail)],
            )

    def rejections(self) -> list[tuple[str, str, str, str]]:
        """(key, id, reason, detail) of every answer that was rejected, by key."""
        return self._read("SELECT * FROM rejections ORDER BY key")

    def dump(self) -> Iterator[tuple[str, str]]:
        """(key, text) of every answer in the order of the keys: what two runs share."""
        yield from self._read("SELECT key, text FROM answers ORDER BY key")

    def usage(self) -> list[tuple[str, str, int, int]]:
        """(request id, model asked, prompt tokens, completion tokens) of each answer.

        Tokens are the server's own count; 0 where it gave none.
        """
        return self._read(
            "SELECT id, json_extract(request, '$.model'), "
            "coalesce(json_extract(usage, '$.prompt_tokens'), 0), "
            "coalesce(json_extract(usage, '$.completion_tokens'), 0) FROM answers"
        )

    def __len__(self) -> int:
        rows = self._read("SELECT count(*) FROM answers")
        return rows[0][0] if rows else 0

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _read(self, statement: str, values: tuple = ()) -> list[tuple]:
        if self._connection is None and not self.path.is_file():
            return []
        with self._lock:
            return self._run(statement, values)

    def _run(self, statement: str, values: tuple | list[tuple]) -> list[tuple]:
        """Run a statement, once or (a list) for many rows, under the lock."""
        try:
            if self._connection is None:
                self._connection = self._open()
            with self._connection as connection:
                if isinstance(values, list):
                    return connection.executemany(statement, values).fetchall()
                return connection.execute(statement, values).fetchall()
        except (sqlite3.Error, OSError) as error:
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
            connection.execute(
                "CREATE TABLE IF NOT EXISTS rejections (key TEXT PRIMARY KEY, id TEXT, "
                "reason TEXT, detail TEXT)"
            )
        except sqlite3.Error:
            connection.close()
            raise
        return connection
