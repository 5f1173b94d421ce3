"""Contrastive training of the 4-bit student: the run, the step, and what may fail."""

import math
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
import torch
from sentence_transformers import SentenceTransformer
from tqdm import tqdm

from nbutils.core import machine, processes
from nbutils.core.errors import LabError
from nbutils.core.files import atomic, write_json, write_table
from nbutils.core.records import TrainingInstance
from nbutils.core.settings import Settings
from nbutils.encoder.student import check_folder, check_student, save_student
from nbutils.training import checkpoints
from nbutils.training.curriculum import plan
from nbutils.training.gradcache import Batch, backward, make_batch


def train(
    model: SentenceTransformer,
    data: Sequence[TrainingInstance],
    settings: Settings,
    *,
    evaluate: Callable[[SentenceTransformer], dict[str, float]] | None = None,
    progress: bool = True,
    checkpoint_folder: str | Path | None = None,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train the adapters of `model` in place by the settings' schedule.

    Returns (steps, evaluations), one row each. `evaluate` is called before the first
    step, after each level, and at the end. A stopped run goes on from its last state in
    `checkpoint_folder`, and ends as if it had never been stopped (bit for bit on a
    CPU). LabError for a loss that is not finite, adapters that get no gradient, memory
    that does not suffice and another run's checkpoint.
    """
    check_student(model)
    chosen, steps = settings.training, plan(data, settings)
    if chosen.warmup_steps >= len(steps):
        raise LabError(
            f"warmup_steps={chosen.warmup_steps} is not below the {len(steps)} steps"
            ": the peak learning rate would never be reached"
        )
    optimizer = make_optimizer([*checkpoints.adapters(model).values()], settings)
    run = model, optimizer, settings, checkpoints.data_digest(data)
    log = checkpoints.resume(checkpoint_folder, *run) if checkpoint_folder else None
    if log is None:
        log = {"steps": [], "evaluations": []}
        _evaluate(log, model, evaluate, "start")
        torch.manual_seed(settings.seed + processes.place()[0])
    done = len(log["steps"])
    bar = tqdm(
        range(done, len(steps)), initial=done, total=len(steps), desc="training",
        disable=not progress or not processes.is_main(), mininterval=5,
        file=sys.stdout,  # JupyterLab shows the other stream as an error
    )  # fmt: skip
    for step in bar:
        began = time.perf_counter()
        level, rows = steps[step]
        rate = chosen.learning_rate * rate_share(step, len(steps), chosen.warmup_steps)
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = make_batch([data[i] for i in rows], level, settings, step)
        with named_memory_errors(settings):
            made = training_step(model, batch, optimizer, settings)
        loss, norm = made["loss"], made["gradient_norm"]
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise LabError(
                f"the loss is not finite at step {step + 1}: lower learning_rate or "
                "raise temperature"
            )
        if step == 0 and norm == 0:
            raise LabError(
                "the adapters get no gradient at the first step: give every query a "
                "negative, or set in_batch=true"
            )
        row = {"step": step + 1, "level": level, **made, "learning_rate": rate}
        log["steps"].append({**row, "seconds": time.perf_counter() - began})
        bar.set_postfix(level=level, loss=f"{loss:.3f}", refresh=False)
        done, last = step + 1, step + 1 == len(steps)
        if done % chosen.steps_per_level == 0 or last:
            _evaluate(log, model, evaluate, level)
        if checkpoint_folder and (done % chosen.checkpoint_every == 0 or last):
            checkpoints.save(checkpoint_folder, *run, log)
    model.eval()
    return pd.DataFrame(log["steps"]), pd.DataFrame(log["evaluations"])


def rate_share(step: int, steps: int, warmup: int) -> float:
    """Share of the peak learning rate: linear warm-up, then linear decay to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return (steps - step) / max(1, steps - warmup)


def training_step(
    model: SentenceTransformer,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    settings: Settings,
) -> dict[str, float]:
    """One step; returns loss, gradient_norm, and each source's share (`backward`).

    The norm is that of all adapters' gradients together, not clipped (SyNeg's V is, by
    our reading, its variance over steps). No weight moves where one is not finite.
    """
    model.train()
    optimizer.zero_grad()
    loss, shares = backward(model, batch, settings)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if torch.isfinite(loss) and torch.isfinite(norm):
        optimizer.step()
    return {"loss": loss.item(), "gradient_norm": norm.item(), **shares}


@contextmanager
def named_memory_errors(settings: Settings):
    """Turn out-of-memory into a LabError that names the settings to lower."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        told = "out of memory" in str(error) or "can't allocate memory" in str(error)
        if not (told or isinstance(error, MemoryError)):
            raise
        chosen = settings.training
        raise LabError(
            f"out of memory with mini_batch={chosen.mini_batch} and mini_batch_tokens="
            f"{chosen.mini_batch_tokens}: lower them, with --set gradient_cache=true "
            "(the gradients are the same); if single texts do not fit, lower max_length"
        ) from None


def make_optimizer(parameters: list[torch.nn.Parameter], settings: Settings):
    """AdamW, or bitsandbytes' paged 8-bit AdamW on a GPU (QLoRA)."""
    chosen = settings.training
    options = {"lr": chosen.learning_rate, "weight_decay": chosen.weight_decay}
    if chosen.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **options)
    if parameters[0].device.type != "cuda":
        raise LabError("paged_adamw_8bit needs a GPU: use --set optimizer=adamw")
    from bitsandbytes.optim import PagedAdamW8bit

    return PagedAdamW8bit(parameters, **options)


def _evaluate(log: dict[str, list[dict]], model, evaluate, level: str) -> None:
    """Score on the main process; the others wait."""
    if evaluate is not None and processes.is_main():
        model.eval()
        row = {"step": len(log["steps"]), "level": level, **evaluate(model)}
        log["evaluations"].append(row)
    processes.wait()


def save_run(
    model: SentenceTransformer,
    folder: str | Path,
    log: tuple[pd.DataFrame, pd.DataFrame],
    data: Sequence[TrainingInstance],
    settings: Settings,
) -> Path:
    """Save a trained student, whole or not at all, with what made it: `run.json`.

    `log`, what `train` returned, is `steps.csv` and, if evaluated, `curve.csv`.
    """
    check_folder(folder)
    steps, curve = log
    made = {
        "settings": settings.flat(),
        "versions": machine.versions(),
        "device": machine.device_name(),
        "processes": processes.place()[1],
        "instances": len(data),
        "data": checkpoints.data_digest(data),
    }
    with atomic(folder) as whole:
        save_student(model, whole)
        write_table(whole / "steps.csv", steps)
        if len(curve):
            write_table(whole / "curve.csv", curve)
        write_json(whole / "run.json", made)
    return Path(folder)
