"""Atomic writes, jsonl, tables, sums."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
from pydantic import BaseModel, ValidationError

from nbutils.core.errors import LabError

R = TypeVar("R", bound=BaseModel)


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A temporary path beside `path` that replaces it only if the block succeeds."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix
    )
    os.close(handle)
    os.chmod(name, 0o644)
    temporary = Path(name)
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(folder: str | Path) -> Iterator[Path]:
    """A folder to make that takes the place of `folder` only if the block succeeds."""
    folder = Path(folder)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        made = Path(temporary, "made")
        yield made
        if folder.is_dir():
            os.replace(folder, Path(temporary, "old"))
        os.replace(made, folder)


def write_jsonl(path: str | Path, records: Iterable[BaseModel | dict]) -> int:
    """Write one record a line; returns how many."""
    count = 0
    with atomic(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for record in records:
            row = record.model_dump() if isinstance(record, BaseModel) else record
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def read_jsonl(path: str | Path, kind: type[R] | None = None) -> list[Any]:
    """The rows of a JSONL file, as dicts or validated records of `kind`.

    Raises LabError that names the file, the line and the first fault in it.
    """
    path = Path(path)
    if not path.is_file():
        raise LabError(f"{path} does not exist")
    rows = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                rows.append(
                    kind.model_validate_json(line) if kind else json.loads(line)
                )
            except ValidationError as error:
                first = error.errors()[0]
                where = ".".join(str(part) for part in first["loc"]) or "the record"
                raise LabError(
                    f"{path}, line {number}: {where}: {first['msg']}; "
                    "restore the file or write it anew"
                ) from None
            except json.JSONDecodeError as error:
                raise LabError(
                    f"{path}, line {number}: not JSON ({error.msg}); the file is "
                    "truncated or damaged: restore it or write it anew"
                ) from None
    return rows


def write_json(path: str | Path, value: Any) -> None:
    """Write a JSON file, indented, with a newline at its end."""
    with atomic(path) as temporary:
        text = json.dumps(value, indent=1, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """The value of a JSON file. LabError where it is missing or no JSON."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LabError(f"{path} does not exist") from None
    except ValueError as error:
        raise LabError(
            f"{path} is not JSON ({error}): restore it or make it again"
        ) from None


def write_table(path: str | Path, table: pd.DataFrame) -> None:
    """Write a parquet table (or csv, by the file's ending)."""
    with atomic(path) as temporary:
        if temporary.suffix == ".csv":
            table.to_csv(temporary, index=False)
        else:
            table.to_parquet(temporary, index=False)


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a parquet or csv table; LabError where it is missing or damaged."""
    path = Path(path)
    if not path.is_file():
        raise LabError(f"{path} does not exist")
    try:
        return pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise LabError(f"{path} cannot be read as a table: {error}") from None


def sha256(path: str | Path) -> str:
    """Hex digest of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


SUMS = "SHA256SUMS"
"""One line a file, `digest  name`; names may hold folders, as in `a/b.json`."""


def files_of(folder: str | Path) -> list[str]:
    """Names of all files under `folder`, sorted; hidden ones and its sums left out."""
    folder = Path(folder)
    paths = (p.relative_to(folder) for p in folder.rglob("*") if p.is_file())
    shown = (p for p in paths if not any(part.startswith(".") for part in p.parts))
    return sorted(p.as_posix() for p in shown if p.as_posix() != SUMS)


def write_sums(folder: str | Path) -> int:
    """Write `folder`/SHA256SUMS over every file under it; returns how many.

    This is how the sums of everything under data/ are made.
    """
    folder = Path(folder)
    names = files_of(folder)
    with atomic(folder / SUMS) as temporary:
        lines = [f"{sha256(folder / name)}  {name}\n" for name in names]
        temporary.write_text("".join(lines), encoding="utf-8")
    return len(names)


def verify_shipped(path: str | Path) -> None:
    """Check a shipped file, or all of a shipped folder, against the sums above it.

    The sums are those of the nearest folder that has a SHA256SUMS. Raises LabError for
    a file that is missing, changed or not listed.
    """
    path = Path(path).resolve()
    around = path.parents if path.is_file() else (path, *path.parents)
    folder = next((f for f in around if (f / SUMS).is_file()), None)
    if folder is None:
        sums = path.parent / SUMS
        raise LabError(f"{sums} is missing: restore it with 'git checkout {sums}'")
    if path.is_file():
        return verify(folder, [path.relative_to(folder).as_posix()])
    within = path.relative_to(folder)
    there = {(within / name).as_posix() for name in files_of(path)}
    listed = {n for n in read_sums(folder) if Path(n).is_relative_to(within)}
    return verify(folder, sorted(there | listed))


def read_sums(folder: Path) -> dict[str, str]:
    """Name to digest, from `folder`/SHA256SUMS. LabError if there is none."""
    sums = folder / SUMS
    if not sums.is_file():
        raise LabError(f"{sums} is missing: restore it with 'git checkout {sums}'")
    listed = {}
    for line in sums.read_text(encoding="utf-8").splitlines():
        digest, _, name = line.partition("  ")
        listed[name] = digest
    return listed


def verify(folder: Path, names: Iterable[str] | None = None) -> None:
    """Check files of `folder` against its `SHA256SUMS`.

    Raises LabError for a file that is missing, changed or not listed.
    """
    sums, listed = folder / SUMS, read_sums(folder)
    for name in listed if names is None else names:
        path = folder / name
        if name not in listed:
            raise LabError(f"{path} is not listed in {sums}")
        if not path.is_file():
            raise LabError(f"{path} is missing: restore it with 'git checkout {path}'")
        if sha256(path) != listed[name]:
            raise LabError(
                f"{path} is truncated or changed (its sha256 is not in {sums}): "
                f"restore it with 'git checkout {path}'"
            )
