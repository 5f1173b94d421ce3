"""Checkpoints: everything a run needs to go on exactly where it was stopped.

One file, replaced whole or not at all. Every process calls `save` and `resume`; only
the main one reads and writes.
"""

import hashlib
import io
import os
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from nbutils.core import machine, processes
from nbutils.core.errors import LabError
from nbutils.core.files import atomic
from nbutils.core.records import TrainingInstance
from nbutils.core.settings import Settings

NAME = "checkpoint.pt"
OF_THE_MACHINE = {"min_memory_gb", "checkpoint_every"}
"""Settings that a resumed run may change: they do not touch a number."""
OF_MEMORY = {
    "mini_batch", "mini_batch_tokens", "gradient_cache", "gradient_checkpointing",
}  # fmt: skip
"""Settings that a run out of memory may change: the gradients are the same, rounded."""


def data_digest(data: Sequence[TrainingInstance]) -> str:
    """Sixteen hex digits that change with any training text or its place."""
    lines = "".join(f"{instance.model_dump_json()}\n" for instance in data)
    return hashlib.sha256(lines.encode()).hexdigest()[:16]


def adapters(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The trained weights by name; everything else is frozen."""
    return {n: p for n, p in model.named_parameters() if p.requires_grad}


def save(
    folder: str | Path,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: Settings,
    digest: str,
    log: dict[str, list[dict]],
) -> None:
    """Replace the folder's checkpoint by the state after the log's last step.

    `digest` is the training data's. LabError where it cannot be written; the one
    before is then still there.
    """
    random = {"torch": torch.get_rng_state()}  # dropout draws on it, and nothing else
    if model.device.type == "cuda":
        random["cuda"] = torch.cuda.get_rng_state(model.device)
    path, whole, step = Path(folder, NAME), io.BytesIO(), len(log["steps"])
    state = {
        "step": step,
        "settings": settings.flat(),
        "versions": machine.versions(),
        "data": digest,
        "adapters": {name: p.detach() for name, p in adapters(model).items()},
        "optimizer": optimizer.state_dict(),
        "random": processes.gather(random),
        "log": log,
    }
    try:
        if processes.is_main():
            torch.save(state, whole)  # straight to a file, it hides that a disk is full
            with atomic(path) as temporary, temporary.open("wb") as file:
                file.write(whole.getbuffer())
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        kept = "the one before is kept" if path.is_file() else "there is none before it"
        raise LabError(
            f"the checkpoint of step {step} cannot be written to {folder} "
            f"({error.strerror}): {kept}; make room and resume"
        ) from None
    processes.wait()


def read(folder: str | Path, settings: Settings, digest: str) -> dict[str, Any] | None:
    """The folder's checkpoint, None where there is none.

    LabError for a damaged one and for one of other settings or data: going on from it
    would be neither run. Another mini-batch, which a run out of memory needs, and other
    versions are only said; so is another number of processes, unless dropout has a
    random state in each.
    """
    path = Path(folder, NAME)
    for left in path.parent.glob(f".{path.stem}-*{path.suffix}"):
        left.unlink()  # a writer was killed in the middle
    if not path.is_file():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).splitlines()[0]
        raise LabError(
            f"{path} is damaged ({reason}): remove it and start anew"
        ) from None
    now = {"data": digest, "processes": processes.place()[1]}
    then = {"data": state["data"], "processes": len(state["random"])}
    then |= {**state["versions"], **state["settings"]}
    changed = {
        name: f"{name}={then.get(name)!r} (now {value!r})"
        for name, value in (now | machine.versions() | settings.flat()).items()
        if name not in OF_THE_MACHINE and then.get(name) != value
    }
    told = f"{path} is of a run with {', '.join(changed.values())}"
    free = OF_MEMORY | machine.versions().keys()
    if not settings.encoder.lora_dropout:
        free |= {"processes"}
    if changed.keys() - free:
        raise LabError(f"{told}: resume with these, or give another folder")
    if changed:
        print(f"{told}: bits may differ")
    return state


def resume(
    folder: str | Path,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    settings: Settings,
    digest: str,
) -> dict[str, list[dict]] | None:
    """Put the folder's checkpoint in place, if there is one; returns its log.

    Each process takes its own random state; the rest is the same in all of them.
    """
    state = processes.from_main(lambda: read(folder, settings, digest))
    if state is None:
        return None
    trained, wrapped = adapters(model), ".base_model.model"  # in names of before
    saved = {name.replace(wrapped, ""): p for name, p in state["adapters"].items()}
    if trained.keys() != saved.keys():
        raise LabError("the checkpoint is of other adapters than this model's")
    with torch.no_grad():
        for name, parameter in trained.items():
            parameter.copy_(saved[name])
    optimizer.load_state_dict(state["optimizer"])
    number, count = processes.place()
    if len(state["random"]) == count:
        own = state["random"][number]
        torch.set_rng_state(own["torch"])
        if model.device.type == "cuda":
            torch.cuda.set_rng_state(own["cuda"], model.device)
    return state["log"]
