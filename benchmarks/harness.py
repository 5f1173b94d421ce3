"""How everything here is measured: in turn with its peer, or in a process of its own.

A measurement is a row {name, value, peer, ratio, unit}. `peer` is the value of what is
compared with and `ratio` is value / peer; both are None where there is nothing.
"""

import json
import os
import subprocess
import sys
import time
from collections import namedtuple
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import pandas as pd
import psutil
import torch

from nbutils.core import machine
from nbutils.core.errors import LabError
from nbutils.core.settings import ROOT

Row = dict[str, Any]


def row(name: str, value: float, unit: str, peer: float | None = None) -> Row:
    """One measurement; `ratio` follows from `peer`."""
    ratio = value / peer if peer else None
    return {"name": name, "value": value, "peer": peer, "ratio": ratio, "unit": unit}


Measured = namedtuple("Measured", "result seconds peak more")
"""Of a call; `peak`: GB in use at most (on a GPU: of tensors), `more`: MB it added."""


def measured(function: Callable[[], Any], device: str = "cpu") -> Measured:
    """Call the function once, with a clock and an eye on memory."""
    cuda = device == "cuda"
    if cuda:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
    elif sys.platform == "linux":  # `peak_memory_gb` counts from now on
        Path("/proc/self/clear_refs").write_text("5")
    resident = psutil.Process().memory_info().rss / machine.GB
    before = torch.cuda.memory_allocated() / 1e9 if cuda else resident
    began = time.perf_counter()
    result = function()
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - began
    peak = torch.cuda.max_memory_allocated() / 1e9 if cuda else machine.peak_memory_gb()
    return Measured(result, seconds, peak, 1000 * (peak - before))


def in_turn(
    ways: Sequence[Callable[[], Any]], rounds: int, warm_up: int = 1
) -> list[pd.Series]:
    """Call functions in turn; the medians of each one's number, or numbers by name.

    What else the machine does falls on all of them, and who comes first changes: the
    next finds warmer caches. `warm_up` rounds before the others do not count.
    """
    found: list[list] = [[] for _ in ways]
    for turn in range(warm_up + rounds):
        pairs = list(zip(ways, found, strict=True))
        for way, calls in pairs if turn % 2 else reversed(pairs):
            calls.append(way())
    return [pd.DataFrame(calls[warm_up:]).median() for calls in found]


def timed_row(name: str, ours: Callable, peer: Callable, rounds: int) -> Row:
    """A row of median seconds of two functions that take turns."""
    ways = [lambda way=way: measured(way).seconds for way in (ours, peer)]
    (value,), (other,) = in_turn(ways, rounds)
    return row(name, value, "s", other)


def in_process(function: Callable, *arguments: Any, **environment: str) -> Any:
    """What a module's function returns in a fresh process; all of it passes as JSON.

    LabError with the process's last line where it fails.
    """
    words = (function.__module__, function.__name__, json.dumps(arguments))
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.harness", *words],
        cwd=ROOT, capture_output=True, text=True, env={**os.environ, **environment},
    )  # fmt: skip
    if done.returncode:
        last = (done.stderr.strip() or "no message").splitlines()[-1]
        raise LabError(f"the benchmark's part {' '.join(words)} failed: {last}")
    return json.loads(done.stdout.splitlines()[-1])


if __name__ == "__main__":
    module, name, arguments = sys.argv[1:]
    print(json.dumps(getattr(import_module(module), name)(*json.loads(arguments))))
