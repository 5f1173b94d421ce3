"""What test files of this folder share: made-up instances, launched and killed runs."""

import os
import signal
import subprocess
import sys
from pathlib import Path

from nbutils.core.records import TrainingInstance


def instance(number: int, **changes) -> TrainingInstance:
    """An instance with four graded and four retrieved negatives."""
    graded = {f"N{k}": f"negative {k} of {number}" for k in (1, 2, 3, 4)}
    base = {
        "id": f"q{number}", "dataset": "mgh/sts", "instruction": "Find it",
        "query": f"query {number}", "positive": f"positive {number}", "graded": graded,
        "retrieved": tuple(f"found {k} for {number}" for k in range(4)),
    }  # fmt: skip
    return TrainingInstance(**{**base, **changes})


def launch(*command: str) -> subprocess.CompletedProcess:
    """A command on the CPU, by this Python; the tests' modules can be imported."""
    tests = str(Path(__file__).parents[1])
    paths = os.pathsep.join([tests, *filter(None, sys.path)])
    cpu = {"PYTHONPATH": paths, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    whole = [sys.executable, *command]
    env = {**os.environ, **cpu}
    return subprocess.run(whole, env=env, capture_output=True, text=True, timeout=400)


def dies(module, name: str, last: int) -> list:
    """Let the `last` call of a function kill this process; returns the calls so far."""
    original, calls = getattr(module, name), []

    def deadly(*args, **kwargs):
        calls.append(1)
        if len(calls) == last:
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*args, **kwargs)

    setattr(module, name, deadly)
    return calls
