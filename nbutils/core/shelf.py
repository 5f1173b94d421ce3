"""A shelf: rows by key in one SQLite file, each written before `put` returns.

A process that is killed loses nothing; a power failure may cost the latest rows.
"""

import contextlib
import sqlite3
import threading
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from nbutils.core.errors import LabError


class Damaged(LabError):
    """The file of a shelf is no database, or no whole one."""


class Shelf:
    """Rows (key, then `columns`) in a file that threads and processes share (WAL).

    The first row of a key stays. Until the first `put` makes the file, reads find
    nothing. A file that is no shelf is Damaged, one that is locked or full a LabError;
    `advice` ends the message.
    """

    def __init__(
        self,
        path: str | Path,
        table: str,
        columns: Sequence[str] = ("value",),
        advice: str = "move it away",
    ):
        self.path, self.table, self.columns = Path(path), table, tuple(columns)
        self.advice = advice
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def get(self, keys: Iterable[Any]) -> dict[Any, tuple]:
        """Key to the values of its row, of those keys that are there."""
        keys, found = list(keys), {}
        for start in range(0, len(keys), 500):
            part = keys[start : start + 500]
            marks = ",".join("?" * len(part))
            rows = self.read(f"SELECT * FROM {self.table} WHERE key IN ({marks})", part)
            found.update((key, tuple(values)) for key, *values in rows)
        return found

    def put(self, rows: Iterable[tuple]) -> None:
        """Keep rows (key, values …) in one commit; those of known keys are ignored."""
        marks = ",".join("?" * (1 + len(self.columns)))
        self._run(f"INSERT OR IGNORE INTO {self.table} VALUES ({marks})", rows, True)

    def read(self, statement: str, values: Sequence = ()) -> list[tuple]:
        """What an SQL query on the table finds; nothing while there is no file."""
        if self._connection is None and not self.path.is_file():
            return []
        return self._run(statement, values)

    def close(self) -> None:
        """Close the file; the next call opens it again."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    def _run(self, statement: str, values: Iterable, many: bool = False) -> list[tuple]:
        try:
            with self._lock, self._opened() as connection:
                run = connection.executemany if many else connection.execute
                return run(statement, values).fetchall()
        except (sqlite3.Error, OSError) as error:
            # an OperationalError is a lock or the disk's fault: the file may be whole
            whole = isinstance(error, (sqlite3.OperationalError, OSError))
            raise (LabError if whole else Damaged)(
                f"{self.path} cannot be used ({error}): {self.advice}"
            ) from None

    def _opened(self) -> sqlite3.Connection:
        if self._connection is not None:
            return self._connection
        self.path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(self.path, timeout=60, check_same_thread=False)
        with contextlib.suppress(sqlite3.OperationalError):
            connection.execute("PRAGMA journal_mode=WAL")  # or another sets it
        connection.execute("PRAGMA synchronous=NORMAL")
        named = ", ".join(("key PRIMARY KEY", *self.columns))
        connection.execute(f"CREATE TABLE IF NOT EXISTS {self.table} ({named})")
        self._connection = connection
        return connection
