"""Filling the store: every request of some stages, asked, counted and shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.table import Table

from nbutils import synthesis
from nbutils.batches import Batches
from nbutils.estimate import STAGES, check_stages
from nbutils.llm import Client
from nbutils.records import Rejection
from nbutils.settings import Settings

NEEDS = {"mgh": "brainstorm", "syneg": "seed", "syneg-free": "seed"}
"""The stage whose answers a stage's prompts hold."""


@dataclass
class Progress:
    """What has come so far: outcomes by stage, and rejected ones by reason."""

    arrived: Counter = field(default_factory=Counter)
    accepted: Counter = field(default_factory=Counter)
    rejected: Counter = field(default_factory=Counter)

    def watch(self, stage: str, show: Callable[[Progress], None]):
        """A function for `asking.fulfil` that counts each outcome and shows it."""

        def arrived(outcome: Any) -> None:
            self.arrived[stage] += 1
            if isinstance(outcome, Rejection):
                self.rejected[stage, outcome.reason] += 1
            else:
                self.accepted[stage] += 1
            show(self)

        return arrived


def record(
    settings: Settings,
    client: Client,
    stages: Sequence[str] = (),
    show: Callable[[Progress], None] = lambda progress: None,
) -> tuple[Progress, dict[str, tuple[int, list[Rejection]]]]:
    """Ask for every missing answer of `stages` (none: all); the earlier ones they need.

    Returns the progress and, per stage, how many records were accepted at last and
    what was rejected for good. `show` is called after every outcome.
    """
    wanted = check_stages(stages)
    wanted = [s for s in STAGES if s in wanted or s in {NEEDS.get(w) for w in wanted}]
    progress, results = Progress(), {}
    tasks, items = [], []
    for stage in wanted:
        watch = progress.watch(stage, show)
        if stage == "brainstorm":
            tasks, rejected = synthesis.brainstorm(settings, client, watch)
            accepted = tasks
        elif stage == "seed":
            items, rejected = synthesis.retrieval_items(settings, client, watch)
            accepted = items
        elif stage == "mgh":
            accepted, rejected = synthesis.graded_examples(
                tasks, settings, client, watch
            )
        else:
            accepted, rejected = synthesis.syneg_examples(
                items, settings, client, watch, kinds=[stage]
            )
        results[stage] = (len(accepted), rejected)
    return progress, results


def run(settings: Settings, stages: Sequence[str], batch: bool) -> None:
    """Record with a live table on the terminal, and sum up, also after a stop."""
    console = Console()
    client = synthesis.open_client(settings)
    if batch:
        client.prefetch = Batches(client, console.print).run
    with Live(console=console, auto_refresh=False) as live:

        def show(progress: Progress) -> None:
            live.update(table(progress), refresh=console.is_terminal)

        try:
            _, results = record(settings, client, stages, show)
        finally:
            live.refresh()
            client.close()
            console.print(
                f"{client.requested} requests in {client.attempts} attempts; "
                f"{len(client.store)} answers in {settings.llm_store}"
            )
    for stage, (accepted, rejected) in results.items():
        console.print(f"{stage}: {accepted} records, {len(rejected)} rejected for good")


def table(progress: Progress) -> Table:
    """Stage, outcomes so far, accepted, rejected by reason."""

    made = Table("stage", "answers", "accepted", "rejected, by reason")
    for stage in progress.arrived:
        reasons = {r: n for (s, r), n in progress.rejected.items() if s == stage}
        text = ", ".join(f"{reason} {n}" for reason, n in sorted(reasons.items()))
        counts = (progress.arrived[stage], progress.accepted[stage])
        made.add_row(stage, *map(str, counts), text or "none")
    return made
