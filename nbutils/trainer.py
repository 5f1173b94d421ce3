"""One stage of pretraining under way: its step, its curve, its state on disk."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from nbutils import machine
from nbutils.checkpoints import read_state, write_state
from nbutils.errors import LabError
from nbutils.lessons import VALIDATION_SHARDS, Lesson, Shard
from nbutils.models import compute_dtype, device_of
from nbutils.records import write_table
from nbutils.settings import Pretraining
from nbutils.stages import Stage

STATE, CURVE = "state.pt", "curve.csv"


class Trainer:
    """One stage under way: model, optimizer, lesson, counts, curve.

    Each shard of a step runs on one thread, alone with its gradient; `threads` says how
    many run at once. Gradients are summed in the shards' order, so the number of
    threads changes no bit. On a CPU two single threads are faster than one operation
    on two, above all where other programs want the same cores.
    """

    def __init__(
        self,
        stage: Stage,
        model: torch.nn.Module,
        lesson: Lesson,
        settings: Pretraining,
        threads: int,
    ):
        self.device = device_of(settings)
        self.stage, self.model, self.lesson = stage, model.to(self.device), lesson
        self.settings = settings
        if stage.embeddings != "free":
            alone = stage.embeddings == "alone"
            model.requires_grad_(not alone)
            model.get_input_embeddings().requires_grad_(alone)
        self.weights = [p for p in model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.weights, betas=(0.9, 0.95), weight_decay=0.0, fused=True
        )
        self.low = compute_dtype("auto", self.device) == torch.bfloat16
        self.pool = ThreadPoolExecutor(threads, initializer=_alone)
        self.step, self.tokens, self.seconds = 0, 0, 0.0
        self.losses: list[float] = []
        self.curve: list[dict[str, Any]] = []

    def _loss(self, shard: Shard) -> torch.Tensor:
        shard = moved(shard, self.device)
        with torch.autocast(self.device, torch.bfloat16, self.low, cache_enabled=False):
            return self.lesson.loss(self.model, shard)

    def _gradient(self, shard: Shard) -> tuple[float, tuple]:
        loss = self._loss(shard)
        return float(loss.detach()), torch.autograd.grad(loss, self.weights)

    def train_step(self, share: float) -> float:
        """One step at `share` of the peak rates; returns the mean loss of its shards.

        LabError for a loss that is not finite: the state before it stays.
        """
        parts = range(self.settings.shards)
        shards = [self.lesson.shard(self.step, part) for part in parts]
        found = list(self.pool.map(self._gradient, shards))
        loss = sum(part[0] for part in found) / len(found)
        if loss != loss or loss in (float("inf"), -float("inf")):
            raise LabError(
                f"{self.stage.name}, step {self.step + 1}: the loss is {loss}; "
                "lower learning_rate and start the stage anew"
            )
        total = list(found[0][1])
        for _, grown in found[1:]:
            torch._foreach_add_(total, list(grown))
        torch._foreach_div_(total, len(found))
        for weight, gradient in zip(self.weights, total, strict=True):
            weight.grad = gradient
        torch.nn.utils.clip_grad_norm_(self.weights, self.settings.gradient_norm)
        for group in self.optimizer.param_groups:
            group["lr"] = self.stage.rate(self.settings) * share
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.step += 1
        self.tokens += sum(map(self.lesson.tokens, shards))
        self.losses.append(loss)
        return loss

    def validate(self) -> float:
        """Mean loss of the validation shards, always the same ones."""

        def one(shard: Shard) -> float:
            with torch.no_grad():
                return float(self._loss(shard))

        shards = [self.lesson.shard(-1, part) for part in range(VALIDATION_SHARDS)]
        return sum(self.pool.map(one, shards)) / len(shards)

    def report(self, share: float) -> dict[str, Any]:
        """Add a row to the curve: the mean loss since the row before it."""
        row = {
            "step": self.step,
            "tokens": self.tokens,
            "seconds": round(self.seconds, 1),
            "loss": sum(self.losses) / len(self.losses) if self.losses else None,
            "validation_loss": self.validate(),
            "rate_share": round(share, 4),
        }
        self.losses = []
        self.curve.append(row)
        return row

    # -- the state on disk

    def keep(self, folder: Path) -> None:
        """Replace the state in `folder`. LabError where it cannot be written."""
        state = {
            "stage": self.stage.name,
            "settings": self.settings.model_dump(),
            "versions": machine.versions(),
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "random": torch.get_rng_state(),
            "counts": (self.step, self.tokens, self.seconds),
            "losses": self.losses,
            "curve": self.curve,
        }
        try:
            write_state(folder / STATE, state)
            if self.curve:
                write_table(folder / CURVE, pd.DataFrame(self.curve))
        except OSError as error:
            raise LabError(
                f"the state of step {self.step} cannot be written to {folder} "
                f"({error.strerror}): make room and run the same command again"
            ) from None

    def resume(self, folder: Path) -> bool:
        """Take the state in `folder`, if there is one; whether there was.

        LabError for a damaged state and for one of other settings.
        """
        path = folder / STATE
        state = read_state(path)
        if state is None:
            return False
        for name, value in self.settings.model_dump().items():
            if state["settings"].get(name) != value:
                raise LabError(
                    f"{path} is of a run with {name}={state['settings'].get(name)!r} "
                    f"(now {value!r}): run with its settings, or give another folder"
                )
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        torch.set_rng_state(state["random"])
        self.step, self.tokens, self.seconds = state["counts"]
        self.losses, self.curve = state["losses"], state["curve"]
        return True


def moved(value: Any, device: str) -> Any:
    """A shard, or a part of it, with every tensor on the device."""
    if isinstance(value, torch.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {name: moved(part, device) for name, part in value.items()}
    if isinstance(value, tuple):
        return tuple(moved(part, device) for part in value)
    return value


def _alone() -> None:
    torch.set_num_threads(1)
