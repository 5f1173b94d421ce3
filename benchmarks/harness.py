"""Measurements as rows {name, value, peer, ratio, unit}, one suite per subject.

`peer` is the value of what a suite compares with and `ratio` is value / peer;
both are None where there is nothing to compare with. A new suite is a function that
returns rows, entered in SUITES.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from nbutils.core.errors import LabError, nearest
from nbutils.core.files import write_json
from nbutils.core.settings import ROOT

Row = dict[str, Any]


def row(name: str, value: float, unit: str, peer: float | None = None) -> Row:
    """One measurement; `ratio` follows from `peer`."""
    ratio = value / peer if peer else None
    return {"name": name, "value": value, "peer": peer, "ratio": ratio, "unit": unit}


def notebooks(out: str = "runs", profile: str = "workshop") -> list[Row]:
    """Seconds, their shares and peak memory of the notebooks run under OUT/PROFILE.

    Reads the metrics files, runs nothing. LabError where there are none.
    """
    paths = sorted(Path(ROOT, out, profile).glob("*/metrics.json"))
    if not paths:
        raise LabError(
            f"no runs under {Path(out, profile)}: first "
            f"'python -m nbutils run --profile {profile}'"
        )
    rows, total = [], 0.0
    for path in paths:
        report = json.loads(path.read_text(encoding="utf-8"))
        name, seconds = report["notebook"], report["seconds"]
        rows.append(row(f"{name} wall time", seconds["total"], "s"))
        for part in ("import", "encoding", "training", "other"):
            share = seconds[part] / seconds["total"]
            rows.append(row(f"{name} {part} share", round(share, 4), "of wall time"))
        rows.append(row(f"{name} peak memory", report["peak_memory_gb"], "GB"))
        total += seconds["total"]
    return [*rows, row("all wall time", round(total, 3), "s")]


def _later(module: str) -> Callable[..., list[Row]]:
    """The `rows` of a module that is imported when its suite is asked for."""

    def rows(**where: str) -> list[Row]:
        return import_module(f"benchmarks.{module}").rows(**where)

    return rows


SUITES: dict[str, Callable[..., list[Row]]] = {
    "notebooks": notebooks,
    "llm": _later("llm"),
    "mining": _later("mining"),
    "pooling": _later("pooling"),
    "training": _later("training"),
    "gpu": _later("gpu"),
}


def bench(name: str, out: str = "runs", profile: str = "workshop") -> list[Row]:
    """The rows of suite `name`. LabError that names the known ones for another."""
    if name not in SUITES:
        near, known = nearest(name, SUITES), ", ".join(SUITES)
        raise LabError(f"unknown suite {name!r}{near} (known: {known})")
    return SUITES[name](out=out, profile=profile)


def write(path: str | Path, rows: list[Row]) -> None:
    """Write the rows as a JSON list."""
    write_json(path, rows)
