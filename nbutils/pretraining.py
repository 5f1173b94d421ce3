"""Pretraining of the decoder, stage after stage, each a folder and a learning curve.

A stage starts from the folder of the one before it, runs to its number of steps or to
the minutes it was given, and goes on exactly where it was stopped: batches follow from
seed and step, everything else is in a state that is kept at least once a minute.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from nbutils import corpora, decoder, machine
from nbutils.backbone import make_bidirectional
from nbutils.errors import LabError
from nbutils.lessons import Work
from nbutils.records import sha256, write_json
from nbutils.settings import Pretraining, nearest
from nbutils.stages import STAGES, Stage
from nbutils.trainer import STATE, Trainer

KEEP_SECONDS = 40.0
"""Time after which the state is kept again: a kill loses less than a minute."""
LONGEST_STEP = 30.0
"""Seconds that one step counts at most, so that a paused process is not late."""
REPORT_STEPS = 25
DONE = "stage.json"


def rate_share(progress: float, step: int, settings: Pretraining) -> float:
    """Share of the peak learning rate: warm-up, plateau, linear decay to zero.

    `progress` is the done share of the stage, of its steps or of its minutes.
    """
    warm = (step + 1) / settings.warmup_steps if settings.warmup_steps else 1.0
    fall = (1 - progress) / settings.decay_share
    return max(0.0, min(1.0, warm, fall))


def run_stage(
    trainer: Trainer,
    folder: Path,
    minutes: float | None,
    tell: Callable[[str], None],
) -> None:
    """Train to the stage's steps or `minutes` (of this stage, stops included)."""
    steps, settings = trainer.stage.steps(trainer.settings), trainer.settings
    if trainer.resume(folder):
        tell(f"{trainer.stage.name}: going on after step {trainer.step}")
    if not trainer.curve:
        trainer.report(0.0)
    kept = time.monotonic()

    def progress() -> float:
        spent = trainer.seconds / (60 * minutes) if minutes else 0.0
        return max(trainer.step / steps, spent)

    while (done := progress()) < 1:
        began = time.monotonic()
        share = rate_share(done, trainer.step, settings)
        trainer.train_step(share)
        trainer.seconds += min(time.monotonic() - began, LONGEST_STEP)
        if trainer.step % REPORT_STEPS == 0 or progress() >= 1:
            row = trainer.report(share)
            tell(
                f"{trainer.stage.name} {row['step']}/{steps}: {row['tokens']:,} tokens"
                f" in {row['seconds']:.0f} s, loss {row['loss']:.3f}, validation "
                f"{row['validation_loss']:.3f}"
            )
        if time.monotonic() - kept > KEEP_SECONDS:
            trainer.keep(folder)
            kept = time.monotonic()
    trainer.keep(folder)


def finish_stage(
    trainer: Trainer, work: Work, folder: Path, before: str, minutes: float | None
) -> None:
    """Write the stage's model and, last, `stage.json`, which says that it is done."""
    decoder.save_decoder(trainer.model, work.tokenizer, folder / "model")
    write_json(
        folder / DONE,
        {
            "stage": trainer.stage.name,
            "what": trainer.stage.text,
            "from": before,
            "minutes": minutes,
            "steps": trainer.step,
            "tokens": trainer.tokens,
            "seconds": round(trainer.seconds, 1),
            "loss": trainer.curve[-1]["loss"],
            "validation_loss": trainer.curve[-1]["validation_loss"],
            "sha256": sha256(folder / "model" / "model.safetensors"),
            "settings": work.settings.model_dump(),
            "versions": machine.versions(),
        },
    )
    (folder / STATE).unlink()


def prepare(text: Path, out: Path, settings: Pretraining, tell) -> Work:
    """Pages, tokenizer and packed tokens; each is made once and kept in `out`."""
    tell(f"reading {text}")
    pages = corpora.read_pages(text, settings.seed)
    made = out / "tokenizer"
    if not made.is_dir():
        tell(f"training a tokenizer of {settings.vocabulary} tokens")
        chosen = [page for page in pages if not page.held_out]
        share = chosen[: max(1000, len(chosen) // 4)]
        decoder.train_tokenizer((p.whole() for p in share), settings, made)
    tokenizer = decoder.load_tokenizer(made)
    if len(tokenizer) != settings.vocabulary:
        raise LabError(
            f"{made} has {len(tokenizer)} tokens, the settings say vocabulary="
            f"{settings.vocabulary}: set it so, or give another folder"
        )
    found = corpora.pack(text, pages, tokenizer, out / "tokens", settings.seed)
    tell(f"{found['train_tokens']:,} tokens of {found['train_pages']:,} pages")
    return Work(pages, tokenizer, settings, out / "tokens")


def first_model(stage: Stage, out: Path, work: Work) -> tuple[Any, str]:
    """The model that a stage starts from, and the name of what made it."""
    names = list(STAGES)
    for name in reversed(names[: names.index(stage.name)]):
        if (out / name / DONE).is_file():
            model, _ = decoder.load_decoder(out / name / "model", head=stage.head)
            if STAGES[name].head and not stage.head:
                decoder.become_encoder(model, work.settings, work.settings.damping)
            made = model.config.hidden_size
            if made != work.settings.hidden:
                raise LabError(
                    f"{out / name} holds a model of width {made}, the settings say "
                    f"hidden={work.settings.hidden}: set it so, or give another folder"
                )
            return model, name
    model = decoder.new_decoder(work.settings, work.tokenizer)
    return (model if stage.head else model.model), "first weights"


def named_stages(words: Sequence[str]) -> dict[str, float | None]:
    """`name` or `name:minutes`, none for all: stage name to minutes, in their order.

    LabError for an unknown stage and for minutes that are no positive number.
    """
    asked: dict[str, float | None] = {}
    for word in words:
        name, colon, minutes = word.partition(":")
        if name not in STAGES:
            near, known = nearest(name, STAGES), ", ".join(STAGES)
            raise LabError(f"unknown stage {name!r}{near} (known: {known})")
        try:
            asked[name] = float(minutes) if colon else None
        except ValueError:
            asked[name] = 0.0
        if colon and not asked[name] > 0:
            raise LabError(f"{word!r}: minutes must be a number above 0, as in lm:60")
    return {name: asked.get(name) for name in STAGES if not words or name in asked}


def pretrain(
    text: str | Path,
    out: str | Path,
    settings: Pretraining,
    stages: Sequence[str] = (),
    threads: int = 1,
    tell: Callable[[str], None] = print,
) -> Path:
    """Run stages (none named: all) and return the folder of the last one's model.

    A stage is named as `lm` or `lm:60`, which bounds its minutes; `threads` shards run
    at once. A stage that is done is not run again. LabError for an unknown stage and
    for missing or damaged text.
    """
    out, chosen = Path(out), named_stages(stages)
    torch.set_flush_denormal(True)
    torch.set_num_threads(1)
    corpora.sources_in(text)
    work = None
    for name, minutes in chosen.items():
        stage, folder = STAGES[name], out / name
        if (folder / DONE).is_file():
            tell(f"{name}: done before")
            continue
        work = work or prepare(Path(text), out, settings, tell)
        folder.mkdir(parents=True, exist_ok=True)
        model, before = first_model(stage, out, work)
        tell(f"{name}: {stage.text}, from {before}")
        if stage.bidirectional:
            make_bidirectional(model)
        trainer = Trainer(stage, model, stage.lesson(work), settings, threads)
        run_stage(trainer, folder, minutes, tell)
        finish_stage(trainer, work, folder, before, minutes)
    return out / list(chosen)[-1] / "model"
