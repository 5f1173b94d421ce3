"""JSONL, JSON, tables and sums. Every write is atomic: a file is whole or not there."""

import fcntl
import gzip
import hashlib
import json
import os
import secrets
import shutil
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import BaseModel, TypeAdapter, ValidationError

from nbutils.core.errors import LabError


@contextmanager
def atomic(path: str | Path) -> Iterator[Path]:
    """A hidden path beside `path` that takes its place only if the block succeeds.

    The block writes a file or a folder there.
    """
    path = Path(path).resolve()  # what a link leads to
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_name(f".{path.stem}-{secrets.token_hex(4)}{path.suffix}")
    older = Path(f"{made}.older")
    try:
        yield made
        if made.is_dir() and path.is_dir():  # not replaced while it holds something
            os.replace(path, older)
        os.replace(made, path)
    finally:
        for left in (made, older):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)


@contextmanager
def writing(path: str | Path) -> Iterator[Path]:
    """`atomic`, with LabError that names `path` where it cannot be written."""
    try:
        with atomic(path) as temporary:
            yield temporary
    except OSError as error:
        raise LabError(
            f"{path} cannot be written ({error.strerror or error}): "
            "make room there, or name another place"
        ) from None


@contextmanager
def alone(path: str | Path, asked: bool = True) -> Iterator[None]:
    """LabError where another process, still alive, is in such a block for `path`.

    Of several processes that work as one, one has `asked`.
    """
    lock = Path(path).with_name(f".{Path(path).name}.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with lock.open("a") as file:
        try:
            if asked:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LabError(
                f"another run is writing {path}: wait for it, or name another place"
            ) from None
        yield


def write_jsonl(path: str | Path, records: Iterable[BaseModel | dict]) -> int:
    """Write one record a line; returns how many."""
    count = 0
    with writing(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        for record in records:
            row = record.model_dump() if isinstance(record, BaseModel) else record
            file.write(json.dumps(row, ensure_ascii=False) + "\n")
            count += 1
    return count


def read_lines(path: str | Path) -> Iterator[tuple[int, str]]:
    """Number and text of every line that is not blank; a .gz file is unpacked.

    LabError that names file and line for other encodings than UTF-8 (a byte order mark
    is skipped), and for a file that is missing or damaged.
    """
    path, number = _existing(path), 0
    try:
        with (gzip.open if path.suffix == ".gz" else open)(path, "rb") as file:
            for number, line in enumerate(file, 1):
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if text.strip():
                    yield number, text.rstrip("\r\n")
    except UnicodeDecodeError:
        raise LabError(
            f"{path}, line {number}: not in UTF-8 (UTF-16? Latin-1?): save it so"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise LabError(f"{path}, after line {number}: {error}: restore it") from None


def read_jsonl(path: str | Path, kind: type = dict) -> list[Any]:
    """The rows, as records of `kind`; LabError names file, line and first fault."""
    read, rows = TypeAdapter(kind).validate_json, []
    for number, line in read_lines(path):
        try:
            rows.append(read(line))
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(map(str, first["loc"])) or "record"
            raise LabError(
                f"{path}, line {number}: {field}: {first['msg']}: mend or restore it"
            ) from None
    return rows


def write_json(path: str | Path, value: Any) -> None:
    """Write a JSON file, indented, with a newline at its end."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    with writing(path) as temporary:
        temporary.write_text(text + "\n", encoding="utf-8")


def read_json(path: str | Path) -> Any:
    """The value of a JSON file. LabError where it is missing or no JSON."""
    text = _existing(path).read_bytes()
    try:
        return json.loads(text)
    except ValueError as error:
        raise LabError(f"{path} is not JSON ({error}): make it again") from None


def write_table(path: str | Path, table: pd.DataFrame) -> None:
    """Write a parquet table (or csv, by the file's ending)."""
    csv = Path(path).suffix == ".csv"
    with writing(path) as temporary:
        (table.to_csv if csv else table.to_parquet)(temporary, index=False)


IDS = dict.fromkeys(("query_id", "document_id", "positive_id"), str)
"""Columns that are no numbers, whatever a csv makes of them."""


def read_table(path: str | Path, words: bool = False) -> pd.DataFrame:
    """A parquet or csv table; LabError if missing, damaged or, under sums, changed.

    `words`: all that a csv holds is text, numbers too.
    """
    path = _existing(path)
    if (path.parent / SUMS).is_file():
        verify(path)
    try:
        csv = path.suffix == ".csv"
        told = {"keep_default_na": False, "na_values": [""]}  # "None" is a word
        told["dtype"] = str if words else IDS
        return pd.read_csv(path, **told) if csv else pd.read_parquet(path)
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
    shown = (n.as_posix() for n in names if not any(p[0] == "." for p in n.parts))
    return sorted(name for name in shown if name != SUMS)


def write_sums(folder: str | Path) -> None:
    """Write `folder`/SHA256SUMS over every file under it."""
    folder = Path(folder)
    lines = [f"{sha256(folder / name)}  {name}\n" for name in files_of(folder)]
    with atomic(folder / SUMS) as temporary:
        temporary.write_text("".join(lines), encoding="utf-8")


def read_sums(folder: Path) -> dict[str, str]:
    """Name to digest, from `folder`/SHA256SUMS. LabError if there is none."""
    sums = folder / SUMS
    if not sums.is_file():
        raise LabError(f"{sums} is missing: restore it with 'git checkout {sums}'")
    lines = sums.read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in (line.split("  ", 1) for line in lines)}


def verify(path: str | Path) -> None:
    """Check a shipped file, or all of a folder, against the nearest SHA256SUMS above.

    LabError for a file that is missing, changed or not listed.
    """
    path = Path(path).resolve()
    own = path if path.is_dir() else path.parent
    folder = next((f for f in (own, *own.parents) if (f / SUMS).is_file()), own)
    listed, within = read_sums(folder), path.relative_to(folder)
    names = {name for name in listed if Path(name).is_relative_to(within)}
    names |= {(within / name).as_posix() for name in files_of(path)}
    for name in sorted(names) or [within.as_posix()]:
        file = folder / name
        if name not in listed:
            raise LabError(f"{file} is not listed in {folder / SUMS}")
        if not file.is_file() or sha256(file) != listed[name]:
            fault = "truncated or changed" if file.is_file() else "missing"
            raise LabError(f"{file} is {fault}: restore it with 'git checkout {file}'")
