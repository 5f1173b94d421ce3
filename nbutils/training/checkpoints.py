"""Checkpoints: everything a run needs to go on exactly where it was stopped.

One file, replaced whole or not at all: adapters, optimizer, every process's random
state, the step (with the settings it is the place in schedule and data), the log,
settings, versions.
"""

from __future__ import annotations

import hashlib
import io
import os
import pickle
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from nbutils.core import machine
from nbutils.core.errors import LabError
from nbutils.core.fields import Settings
from nbutils.core.files import atomic
from nbutils.core.processes import place
from nbutils.core.records import TrainingInstance

NAME = "checkpoint.pt"
OF_THE_MACHINE = {"min_memory_gb", "checkpoint_every"}
"""Settings that a resumed run may change: they do not touch a number."""
OF_MEMORY = {
    "mini_batch", "mini_batch_tokens", "gradient_cache", "gradient_checkpointing",
}  # fmt: skip
"""Settings that a run out of memory may change: the gradients are the same, rounded."""


def data_digest(data: Sequence[TrainingInstance]) -> str:
    """Sixteen hex digits that change with any training text or its place."""
    digest = hashlib.sha256()
    for instance in data:
        digest.update(instance.model_dump_json().encode() + b"\n")
    return digest.hexdigest()[:16]


def adapters(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The trained weights by name, on the CPU."""
    return {
        name: parameter.detach().cpu().clone()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def random_state(device: torch.device) -> dict[str, Any]:
    """This process's random states: Python, NumPy, PyTorch, and its own `device`'s."""
    kind, keys, *rest = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": (kind, torch.from_numpy(keys.astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Put back what `random_state` returned."""
    random.setstate(state["python"])
    kind, keys, *rest = state["numpy"]
    np.random.set_state((kind, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(state["cuda"], device)


def write_state(path: Path, state: dict[str, Any]) -> None:
    """Replace the file by `state`, whole and on the disk, or raise OSError."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    with atomic(path) as temporary, temporary.open("wb") as file:
        file.write(buffer.getbuffer())
        file.flush()
        os.fsync(file.fileno())


def read_state(path: Path) -> dict[str, Any] | None:
    """What `write_state` wrote, None where nothing is; LabError for a damaged file.

    What a writer killed in the middle left beside it is removed.
    """
    for left in path.parent.glob(f".{path.stem}-*{path.suffix}"):
        left.unlink()
    if not path.is_file():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise LabError(
            f"{path} is damaged ({reason}): remove it and start anew"
        ) from None


def save(
    folder: str | Path,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: Settings,
    log: dict[str, list[dict]],
    digest: str,
    states: list[dict[str, Any]],
) -> None:
    """Replace the folder's checkpoint by the state after the log's last step.

    `states` holds the `random_state` of every process, in their order. LabError where
    it cannot be written; the one before is then still there.
    """
    path = Path(folder, NAME)
    state = {
        "step": len(log["steps"]),
        "settings": settings.flat(),
        "versions": machine.versions(),
        "data": digest,
        "adapters": adapters(model),
        "optimizer": optimizer.state_dict(),
        "random": states,
        "log": log,
    }
    try:
        write_state(path, state)
    except OSError as error:
        kept = "the one before is kept" if path.is_file() else "there is none before it"
        raise LabError(
            f"the checkpoint of step {state['step']} cannot be written to {folder} "
            f"({error.strerror}): {kept}; make room and resume"
        ) from None


def read(folder: str | Path, settings: Settings, digest: str) -> dict[str, Any] | None:
    """The folder's checkpoint, None where there is none.

    LabError for a damaged one and for one of other settings or other data: going on
    from it would be neither run. Another mini-batch is only said: it is what a run out
    of memory needs. So is another number of processes, unless there is dropout: its
    random states are one a process. What a writer killed in the middle left is removed.
    """
    path = Path(folder, NAME)
    state = read_state(path)
    if state is None:
        return None
    changed = {
        name: f"{name}={state['settings'].get(name)!r} (now {value!r})"
        for name, value in settings.flat().items()
        if name not in OF_THE_MACHINE and state["settings"].get(name) != value
    }
    told = ", ".join(changed.values())
    if changed.keys() - OF_MEMORY:
        raise LabError(
            f"{path} is of a run with {told}: resume with its settings, or give "
            "another folder"
        )
    if changed:
        print(f"{path.name} is of a run with {told}: bits may differ")
    if state["data"] != digest:
        raise LabError(
            f"{path} is of a run on other training data: restore them, or give "
            "another folder"
        )
    _check_processes(path, len(state["random"]), settings)
    for package, version in machine.versions().items():
        if state["versions"].get(package) != version:
            print(f"{path.name} was made with another {package}: bits may differ")
    return state


def _check_processes(path: Path, made: int, settings: Settings) -> None:
    """Refuse random states that are not one for each process, where any is drawn on."""
    now = place()[1]
    if made == now:
        return
    if settings.encoder.lora_dropout:
        raise LabError(
            f"{path} is of a run with {made} processes, now there are {now}, and "
            f"dropout draws on one random state each: resume with {made} processes"
        )
    print(f"{path.name} is of a run with {made} processes: bits may differ")


def restore(
    state: dict[str, Any], model: torch.nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Put a checkpoint's weights, optimizer and random states back in place.

    Each process takes its own random state; the rest is the same in all of them.
    """
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    if trained.keys() != state["adapters"].keys():
        raise LabError("the checkpoint is of other adapters than this model's")
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(state["adapters"][name])
    optimizer.load_state_dict(state["optimizer"])
    number, processes = place()
    if len(state["random"]) == processes:
        device = next(iter(trained.values())).device
        set_random_state(state["random"][number], device)
