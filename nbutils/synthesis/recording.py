"""Filling the store: every request of some stages, asked, counted and shown."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.live import Live
from rich.table import Table

from nbutils.core.errors import LabError, nearest
from nbutils.core.fields import Settings
from nbutils.core.records import Rejection
from nbutils.encoder.models import token_counter
from nbutils.llm.batches import Batches
from nbutils.llm.client import Client
from nbutils.llm.costs import price_of
from nbutils.llm.store import Store
from nbutils.synthesis import generate, plan, recordings

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
            tasks, rejected = generate.brainstorm(settings, client, watch)
            accepted = tasks
        elif stage == "seed":
            items, rejected = generate.retrieval_items(settings, client, watch)
            accepted = items
        elif stage == "mgh":
            accepted, rejected = generate.graded_examples(
                tasks, settings, client, watch
            )
        else:
            accepted, rejected = generate.syneg_examples(
                items, settings, client, watch, kinds=[stage]
            )
        results[stage] = (len(accepted), rejected)
    return progress, results


def run(settings: Settings, stages: Sequence[str], batch: bool) -> None:
    """Record with a live table on the terminal, and sum up, also after a stop."""
    console = Console()
    client = generate.open_client(settings)
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
                f"{len(client.store)} answers in {settings.llm.store}"
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


STAGES = ("brainstorm", "seed", "mgh", "syneg", "syneg-free")
PILOT = 5
"""Stored answers of a stage from which on they tell its lengths, not the recordings."""


def check_stages(stages: Iterable[str]) -> list[str]:
    """The stages in the order in which they are run; LabError for an unknown one."""
    wanted = list(stages)
    for name in wanted:
        if name not in STAGES:
            raise LabError(
                f"unknown stage {name!r}{nearest(name, STAGES)} "
                f"(known: {', '.join(STAGES)})"
            )
    return [stage for stage in STAGES if not wanted or stage in wanted]


def stage_of(request_id: str) -> str:
    """The stage of a request, from its id (also of one that asks again)."""
    return request_id.split("#")[0].split("/")[1]


def estimate(
    settings: Settings, store: Store, stages: Sequence[str] = ()
) -> pd.DataFrame:
    """One row a stage of what is missing in `store`, then a row `all`.

    Columns: stage, requests (planned), stored, ask, prompt_tokens, answer_mean and
    answer_p90 (tokens of one answer), from (`pilot`: the store's own answers of this
    model; `recordings`), cost, cost_p90 (if every answer were as long as the 90th
    percentile), batch_cost, currency. Tokens are word pieces of MiniLM's tokenizer,
    but for a pilot's answers, which the server counted; other tokenizers differ by
    some 10 to 20 %. Rejected answers that are asked again come on top.
    """
    price = price_of(settings)
    count = token_counter()
    used = pd.DataFrame(store.usage(), columns=["id", "model", "prompt", "answer"])
    used = used[(used["model"] == settings.llm.model) & (used["answer"] > 0)]
    pilots = used.groupby(used["id"].map(stage_of))["answer"] if len(used) else {}
    pilots = {stage: list(values) for stage, values in pilots} if len(used) else {}
    planned = _planned(settings)
    rows = []
    for stage in check_stages(stages):
        requests, recorded = planned[stage]
        chats = {r.chat(settings).key: r for r in requests}
        missing = [r for key, r in chats.items() if store.get(key) is None]
        pilot = pilots.get(stage, [])
        lengths = pilot if len(pilot) >= PILOT else count(recorded)
        asked = sum(count([r.prompt for r in missing]))
        mean, p90 = float(np.mean(lengths)), float(np.percentile(lengths, 90))
        rows.append(
            {
                "stage": stage,
                "requests": len(chats),
                "stored": len(chats) - len(missing),
                "ask": len(missing),
                "prompt_tokens": asked,
                "answer_mean": mean,
                "answer_p90": p90,
                "from": "pilot" if len(pilot) >= PILOT else "recordings",
                "cost": price.cost(asked, mean * len(missing)),
                "cost_p90": price.cost(asked, p90 * len(missing)),
            }
        )
    table = pd.DataFrame(rows)
    sums = ["requests", "stored", "ask", "prompt_tokens", "cost", "cost_p90"]
    total = pd.DataFrame([{"stage": "all", **table[sums].sum(), "from": ""}])
    table = pd.concat([table, total], ignore_index=True)
    table = table.astype(dict.fromkeys(sums[:4], int))
    return table.assign(
        batch_cost=table["cost"] * price.batch_factor, currency=price.currency
    )


def _planned(settings: Settings) -> dict[str, tuple[list[plan.Planned], list[str]]]:
    """Stage to its requests, at most `max_items` a family, and the recorded answers."""
    found: dict[str, tuple[list, list]] = {stage: ([], []) for stage in STAGES}
    for family in settings.synthesis.families:
        responses = recordings.recorded_responses(family)
        texts = recordings.recorded_texts(responses)
        own: dict[str, list[plan.Planned]] = {stage: [] for stage in STAGES}
        for request in recordings.recorded_requests(family, responses):
            own[stage_of(request.id)].append(request)
        for stage, requests in own.items():
            limit = (
                None if stage == "brainstorm" else settings.synthesis.max_items or None
            )
            found[stage][0].extend(requests[:limit])
            found[stage][1].extend(texts[r.id] for r in requests if r.id in texts)
    return found
