"""Contrastive training of the 4-bit student: the step, the run, and what may fail.

Batches and their gradients are `gradcache`'s, which negatives they hold `curriculum`'s;
devices, autocast, 4-bit arithmetic and processes are the libraries'.
"""

from __future__ import annotations

import math
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

import pandas as pd
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor
from tqdm import tqdm

from nbutils.core import machine, processes
from nbutils.core.errors import LabError
from nbutils.core.fields import Settings
from nbutils.core.files import write_json, write_table
from nbutils.core.records import TrainingInstance
from nbutils.encoder.student import save_student
from nbutils.training import checkpoints, gradcache
from nbutils.training.curriculum import plan
from nbutils.training.gradcache import Batch, backward, make_batch


def learning_rate_at(step: int, steps: int, warmup: int) -> float:
    """Share of the peak rate: linear warm-up, then linear decay to zero."""
    if step < warmup:
        return (step + 1) / warmup
    return (steps - step) / max(1, steps - warmup)


@dataclass
class TrainingLog:
    """What a run leaves: one row a step, one row an evaluation."""

    steps: list[dict] = field(default_factory=list)
    evaluations: list[dict] = field(default_factory=list)

    def frames(self) -> tuple[pd.DataFrame, pd.DataFrame]:
        """(steps, evaluations) as tables."""
        return pd.DataFrame(self.steps), pd.DataFrame(self.evaluations)


def train(
    model: SentenceTransformer,
    data: Sequence[TrainingInstance],
    settings: Settings,
    *,
    evaluate: Callable[[SentenceTransformer], dict[str, float]] | None = None,
    progress: bool = True,
    checkpoint_folder: str | Path | None = None,
) -> TrainingLog:
    """Train the adapters of `model` in place by the settings' schedule.

    `evaluate` is called before the first step, after the last step of each level's run
    of `steps_per_level`, and at the end. With `checkpoint_folder` the state is kept
    there every `checkpoint_every` steps and at the end; a run that finds one there goes
    on from it, and ends as if it had never been stopped (bit for bit on a CPU). Of
    several processes only the main one reads and writes there. Raises LabError for a
    loss that is not finite, for adapters that get no gradient at the first step, for
    memory that does not suffice and for a checkpoint of another run.
    """
    steps = plan(data, settings)
    warmup = settings.training.warmup_steps
    if warmup >= len(steps):
        raise LabError(
            f"warmup_steps={warmup} is not below the {len(steps)} steps"
            ": the peak learning rate would never be reached"
        )
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = make_optimizer(parameters, settings)
    torch.manual_seed(settings.seed + processes.place()[0])
    log, digest = TrainingLog(), checkpoints.data_digest(data)
    if checkpoint_folder:
        _resume(log, checkpoint_folder, model, optimizer, settings, digest)
    if not log.steps:
        _evaluate(log, model, evaluate, 0, "start")
        torch.manual_seed(settings.seed + processes.place()[0])
    bar = tqdm(
        range(len(log.steps), len(steps)), initial=len(log.steps), total=len(steps),
        disable=not progress or not processes.is_main(), desc="training",
        mininterval=5,
    )  # fmt: skip
    for step in bar:
        began = time.perf_counter()
        level, rows = steps[step].level, steps[step].rows
        rate = settings.training.learning_rate * learning_rate_at(
            step, len(steps), settings.training.warmup_steps
        )
        for group in optimizer.param_groups:
            group["lr"] = rate
        batch = make_batch([data[i] for i in rows], level, settings, step)
        with named_memory_errors(model, batch, settings):
            loss, norm = training_step(model, batch, optimizer, settings)
        check_step(step, loss, norm)
        log.steps.append(
            {
                "step": step + 1,
                "level": level,
                "loss": loss,
                "gradient_norm": norm,
                "learning_rate": rate,
                "seconds": time.perf_counter() - began,
            }
        )
        bar.set_postfix(level=level, loss=f"{loss:.3f}")
        done, last = step + 1, step + 1 == len(steps)
        if done % settings.training.steps_per_level == 0 or last:
            _evaluate(log, model, evaluate, done, level)
        if checkpoint_folder and (
            done % settings.training.checkpoint_every == 0 or last
        ):
            _keep(log, checkpoint_folder, model, optimizer, settings, digest)
    model.eval()
    return log


def save_run(
    model: SentenceTransformer,
    folder: str | Path,
    log: TrainingLog,
    data: Sequence[TrainingInstance],
    settings: Settings,
) -> Path:
    """Save a trained student with all that made it; whole or not at all.

    `SentenceTransformer(folder, trust_remote_code=True)` and `encoder.load_student`
    open it. Beside the weights: `steps.csv`, `curve.csv` where the run was evaluated,
    and `run.json` (settings, versions, device, processes, number and digest of the
    instances).
    """
    steps, curve = log.frames()
    made = {
        "settings": settings.flat(),
        "versions": machine.versions(),
        "device": machine.device_name(),
        "processes": processes.place()[1],
        "instances": len(data),
        "data": checkpoints.data_digest(data),
    }

    def beside(temporary: Path) -> None:
        write_table(temporary / "steps.csv", steps)
        if len(curve):
            write_table(temporary / "curve.csv", curve)
        write_json(temporary / "run.json", made)

    return save_student(model, folder, beside)


def training_step(
    model: SentenceTransformer,
    batch: Batch,
    optimizer: torch.optim.Optimizer,
    settings: Settings,
) -> tuple[float, float]:
    """One step; returns the loss and the gradient norm.

    The norm is that of all adapters' gradients together, at the weights before the
    step, not clipped (SyNeg's V is then, by our reading, its variance over steps).
    LabError, before any weight moves, where one of the two is not finite.
    """
    model.train()
    optimizer.zero_grad()
    loss = backward(model, batch, settings)
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if torch.isfinite(loss) and torch.isfinite(norm):
        optimizer.step()
    return loss.item(), norm.item()


def gradient_statistics(steps: pd.DataFrame) -> dict[str, float]:
    """Mean, variance and coefficient of variation of the steps' gradient norms.

    The variance is the unbiased one over the steps of a run: our reading of SyNeg's V,
    whose definition is not known to us.
    """
    norms = steps["gradient_norm"]
    mean, variance = float(norms.mean()), float(norms.var())
    return {"mean": mean, "variance": variance, "relative": variance**0.5 / mean}


@contextmanager
def named_memory_errors(model: SentenceTransformer, batch: Batch, settings: Settings):
    """Turn out-of-memory into a LabError that proposes a mini-batch that fits.

    The proposal was tried: every mini-batch of this batch, forward and backward.
    """
    try:
        yield
        return
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        if not _is_memory(error):
            raise
        # the failed step's activations live on in its frames: let go of them first
        traceback.clear_frames(error.__traceback__)
    found = _fitting(model, batch, settings)
    advice = (
        f"--set gradient_cache=true --set {found[0]}={found[1]} fits (tried)"
        if found
        else "not even single texts fit: lower max_length or take a smaller student"
    )
    told = ("mini_batch", "mini_batch_tokens", "gradient_cache")
    now = ", ".join(
        f"{name}={getattr(settings.training, name)}" for name in told
    ).lower()
    raise LabError(f"out of memory with {now}: {advice}") from None


def _is_memory(error: BaseException) -> bool:
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return "can't allocate memory" in str(error) or "out of memory" in str(error)


def _fitting(
    model: SentenceTransformer, batch: Batch, settings: Settings
) -> tuple[str, int] | None:
    """(setting, largest halving of it that runs with cached gradients); None: none.

    The setting is the limit that the largest mini-batch has reached: texts or tokens.
    With cached gradients already on, that mini-batch is not tried again. No vector
    leaves this process: the others are still in the step that failed here.
    """
    groups = gradcache.batch_chunks(model, batch, settings).groups
    rows, width = max((g["input_ids"].shape for g in groups), key=math.prod)
    chosen = settings.training
    full = rows == chosen.mini_batch or not chosen.mini_batch_tokens
    name = "mini_batch" if full else "mini_batch_tokens"
    size = chosen.mini_batch if full else rows * width
    size = size // 2 if settings.training.gradient_cache else size
    while size:
        smaller = settings.changed(**{name: size})
        model.zero_grad()
        chunks = gradcache.batch_chunks(model, batch, smaller)
        try:
            for group in chunks.groups:
                gradcache.group_vectors(model, group).sum().backward()
            return name, size
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not _is_memory(error):
                raise
        if max(chunks.sizes) == 1:
            return None
        size //= 2
    return None


def check_step(step: int, loss: float, norm: float) -> None:
    """LabError for a step that cannot have trained anything."""
    if not math.isfinite(loss) or not math.isfinite(norm):
        raise LabError(
            f"the loss is not finite at step {step + 1}: lower learning_rate or "
            "raise temperature"
        )
    if step == 0 and norm == 0:
        raise LabError(
            "the adapters get no gradient at the first step: nothing would be trained"
        )


def make_optimizer(parameters: list[Tensor], settings: Settings):
    """AdamW, or bitsandbytes' paged 8-bit AdamW on a GPU (QLoRA)."""
    chosen = settings.training
    options = {"lr": chosen.learning_rate, "weight_decay": chosen.weight_decay}
    if chosen.optimizer == "adamw":
        return torch.optim.AdamW(parameters, **options)
    if parameters[0].device.type != "cuda":
        raise LabError("paged_adamw_8bit needs a GPU: use --set optimizer=adamw")
    from bitsandbytes.optim import PagedAdamW8bit

    return PagedAdamW8bit(parameters, **options)


def _evaluate(log, model, evaluate, step: int, level: str) -> None:
    """Score on the main process; the others wait."""
    if evaluate is not None and processes.is_main():
        model.eval()
        log.evaluations.append({"step": step, "level": level, **evaluate(model)})
    processes.wait()


def _keep(log, folder, model, optimizer, settings, digest) -> None:
    """A checkpoint, written by the main process with every process's random state."""
    states = processes.gather(checkpoints.random_state(model.device))
    if processes.is_main():
        checkpoints.save(
            folder, model, optimizer, settings, asdict(log), digest, states
        )
    processes.wait()


def _resume(log, folder, model, optimizer, settings, digest) -> None:
    """Go on from the folder's checkpoint, where the main process finds one."""
    state = processes.from_main(lambda: checkpoints.read(folder, settings, digest))
    if state:
        checkpoints.restore(state, model, optimizer)
        log.steps, log.evaluations = state["log"]["steps"], state["log"]["evaluations"]
