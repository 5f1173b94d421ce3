"""Atomic writes, jsonl, tables, sums.

JSONL for records that people read, parquet for tables. Every write is atomic: a file
is whole or it is not there.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import secrets
import shutil
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
    """A hidden path beside `path` that takes its place only if the block succeeds.

    The block writes a file or a folder there.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    older = Path(f"{made}.older")
    try:
        yield made
        if path.is_dir():  # a folder is not replaced while it holds something
            os.replace(path, older)
        os.replace(made, path)
    finally:
        for left in (made, older):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


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
    read = kind.model_validate_json if kind else json.loads
    rows = []
    packed = Path(path).suffix == ".gz"
    opened = gzip.open if packed else open
    with opened(_existing(path), "rt", encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            try:
                rows += [read(line)] if line.strip() else []
            except ValidationError as error:
                first = error.errors()[0]
                fault = (
                    f"{'.'.join(map(str, first['loc'])) or 'record'}: {first['msg']}"
                )
            except json.JSONDecodeError as error:
                fault = f"not JSON ({error.msg}), truncated or damaged"
            else:
                continue
            raise LabError(f"{path}, line {number}: {fault}: restore the file")
    return rows


def write_json(path: str | Path, value: Any) -> None:
    """Write a JSON file, indented, with a newline at its end."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    with atomic(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """The value of a JSON file. LabError where it is missing or no JSON."""
    path = _existing(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise LabError(f"{path} is not JSON ({error}): make it again") from None


def write_table(path: str | Path, table: pd.DataFrame) -> None:
    """Write a parquet table (or csv, by the file's ending)."""
    csv = Path(path).suffix == ".csv"
    with atomic(path) as temporary:
        (table.to_csv if csv else table.to_parquet)(temporary, index=False)


def read_table(path: str | Path) -> pd.DataFrame:
    """Read a parquet or csv table; LabError where it is missing or damaged."""
    path = _existing(path)
    try:
        return pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise LabError(f"{path} cannot be read as a table: {error}") from None


def _existing(path: str | Path) -> Path:
    if not Path(path).is_file():
        raise LabError(f"{path} does not exist")
    return Path(path)


# -- sums ------------------------------------------------------------------------------

SUMS = "SHA256SUMS"
"""One line a file, `digest  name`; names may hold folders, as in `a/b.json`."""


def sha256(path: str | Path) -> str:
    """Hex digest of a file's bytes."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def files_of(folder: str | Path) -> list[str]:
    """Names of all files under `folder`, sorted; hidden ones and its sums left out."""
    names = (p.relative_to(folder) for p in Path(folder).rglob("*") if p.is_file())
    shown = (name for name in names if not any(p[0] == "." for p in name.parts))
    return sorted(name.as_posix() for name in shown if name.as_posix() != SUMS)


def write_sums(folder: str | Path) -> int:
    """Write `folder`/SHA256SUMS over every file under it; returns how many."""
    folder, names = Path(folder), files_of(folder)
    lines = [f"{sha256(folder / name)}  {name}\n" for name in names]
    with atomic(folder / SUMS) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")
    return len(names)


def read_sums(folder: Path) -> dict[str, str]:
    """Name to digest, from `folder`/SHA256SUMS. LabError if there is none."""
    sums = folder / SUMS
    if not sums.is_file():
        raise LabError(f"{sums} is missing: restore it with 'git checkout {sums}'")
    lines = sums.read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def verify(path: str | Path) -> None:
    """Check a shipped file, or all of a shipped folder, against the sums above it.

    The sums are those of the nearest folder that has a SHA256SUMS. Raises LabError for
    a file that is missing, changed or not listed.
    """
    path = Path(path).resolve()
    above = [path, *path.parents] if path.is_dir() else path.parents
    folder = next((f for f in above if (f / SUMS).is_file()), above[0])
    listed, within = read_sums(folder), path.relative_to(folder)
    names = {within.as_posix()}
    if path.is_dir():
        names = {name for name in listed if Path(name).is_relative_to(within)}
        names |= {(within / name).as_posix() for name in files_of(path)}
    for name in sorted(names):
        file = folder / name
        mend = f"restore it with 'git checkout {file}'"
        if name not in listed:
            raise LabError(f"{file} is not listed in {folder / SUMS}")
        if not file.is_file():
            raise LabError(f"{file} is missing: {mend}")
        if sha256(file) != listed[name]:
            raise LabError(
                f"{file} is truncated or changed (its sha256 is not in SHA256SUMS): "
                f"{mend}"
            )
