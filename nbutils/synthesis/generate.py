"""Synthesis: brainstorm, MGH and SyNeg, each as request → answer → checked record.

Stage 1 brainstorms tasks; stage 2 writes one graded example a call (Negative Matters,
after E5-mistral's two-step prompt). SyNeg adds negatives to a query and its positive.
"""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from nbutils.core.fields import Settings
from nbutils.core.records import (
    GradedExample,
    Record,
    Records,
    Rejection,
    RetrievalItem,
    SynegExample,
    Task,
    split_of,
)
from nbutils.core.text import normalise
from nbutils.llm.client import Client
from nbutils.synthesis import plan, recordings, replies
from nbutils.synthesis.asking import Watch, fulfil
from nbutils.synthesis.overlap import without_near_duplicates

R = TypeVar("R", bound=Record)


def open_client(settings: Settings, folder: Path | None = None) -> Client:
    """The client over the recorded answers of the settings' families.

    `folder` holds other recordings than the shipped ones. Raises LabError for a
    recording that is missing, truncated or changed, with its line where it can be told.
    """
    recorded = recordings.recorded_answers(
        settings.synthesis.families, settings, folder
    )
    return Client(settings, recorded, replies.SCHEMAS)


def brainstorm(
    settings: Settings, client: Client, watch: Watch | None = None
) -> tuple[list[Task], list[Rejection]]:
    """The tasks of every family, without repeats. Always all: examples need them."""
    requests = [
        r for f in settings.synthesis.families for r in plan.brainstorm_requests(f)
    ]
    answered, rejections = fulfil(requests, settings, client, watch)
    tasks = [task for group in answered for task in group]
    kept, repeats = without_repeats(tasks, lambda t: t.text, "duplicate_task")
    return kept, rejections + repeats


def graded_examples(
    tasks: Iterable[Task],
    settings: Settings,
    client: Client,
    watch: Watch | None = None,
) -> tuple[list[GradedExample], list[Rejection]]:
    """Graded examples of the given tasks, six a task, `max_items` a family."""
    by_family: dict[str, dict[str, dict[int, str]]] = defaultdict(dict)
    for task in tasks:
        by_family[task.family].setdefault(task.group, {})[task.index] = task.text
    requests = []
    for family, groups in by_family.items():
        planned = list(plan.mgh_requests(family, groups, settings.synthesis.languages))
        requests += spread(planned, settings.synthesis.max_items, _stratum)
        if settings.synthesis.bitext:
            requests += plan.bitext_requests(family, settings.synthesis.languages)
    examples, rejections = fulfil(requests, settings, client, watch)
    kept, repeats = without_repeats(examples, lambda e: e.query, "duplicate_query")
    kept, near = without_near_duplicates(
        kept, lambda e: e.query, settings.synthesis.near_duplicate
    )
    return kept, rejections + repeats + near


def retrieval_items(
    settings: Settings, client: Client, watch: Watch | None = None
) -> tuple[list[RetrievalItem], list[Rejection]]:
    """Queries with three independent positives each, `max_items` a family."""
    requests = []
    for family in settings.synthesis.families:
        planned = list(plan.seed_requests(family))
        requests += planned[: settings.synthesis.max_items or None]
    items, rejections = fulfil(requests, settings, client, watch)
    kept, repeats = without_repeats(items, lambda i: i.query, "duplicate_query")
    return kept, rejections + repeats


def syneg_examples(
    items: Iterable[RetrievalItem],
    settings: Settings,
    client: Client,
    watch: Watch | None = None,
    kinds: Sequence[str] = ("syneg", "syneg-free"),
) -> tuple[list[SynegExample], list[Rejection]]:
    """SyNeg negatives of the given items: attribute matched, then freely drawn."""
    by_family: dict[str, dict[int, tuple[str, str]]] = defaultdict(dict)
    for item in items:
        number = int(item.id.rsplit("/", 1)[1])
        by_family[item.family][number] = (item.query, item.positives[0])
    template = plan.syneg_template(
        settings.synthesis.syneg_reflection, settings.synthesis.syneg_attributes
    )
    requests = [
        request
        for family, pairs in by_family.items()
        for request in plan.syneg_requests(family, pairs, template)
        if request.id.split("/")[1] in kinds
    ]
    return fulfil(requests, settings, client, watch)


def load(settings: Settings, client: Client | None = None) -> Records:
    """All records of the settings' families, in one call; replay takes seconds."""
    client = client or open_client(settings)
    tasks, r1 = brainstorm(settings, client)
    graded, r2 = graded_examples(tasks, settings, client)
    items, r3 = retrieval_items(settings, client)
    syneg, r4 = syneg_examples(items, settings, client)
    return Records(tasks, graded, items, syneg, r1 + r2 + r3 + r4)


def without_repeats(
    records: Iterable[R], text_of: Callable[[R], str], reason: str
) -> tuple[list[R], list[Rejection]]:
    """Keep the first record of each text; equality ignores case and punctuation."""
    first: dict[str, str] = {}
    kept, rejections = [], []
    for record in records:
        text = normalise(text_of(record))
        if text in first:
            detail = f"same as {first[text]}"
            rejections.append(Rejection(id=record.id, reason=reason, detail=detail))
        else:
            first[text] = record.id
            kept.append(record)
    return kept, rejections


def spread(
    planned: Sequence[plan.Planned],
    count: int,
    stratum: Callable[[plan.Planned], tuple[str, str]],
) -> list[plan.Planned]:
    """The first `count` (0: all) when groups and splits take turns, in plan order.

    A short run then still holds every group, and something to train on and to test.
    """
    if not count or count >= len(planned):
        return list(planned)
    queues: dict[tuple[str, str], list[plan.Planned]] = defaultdict(list)
    for request in planned:
        queues[stratum(request)].append(request)
    groups, splits = (list(dict.fromkeys(part)) for part in zip(*queues, strict=True))
    lap = math.lcm(len(groups), len(splits))
    chosen: list[plan.Planned] = []
    for turn in itertools.count():
        # After a lap the pairs come round again: shift, so that all pairs are met.
        key = groups[turn % len(groups)], splits[(turn + turn // lap) % len(splits)]
        if queues.get(key):
            chosen.append(queues[key].pop(0))
        if len(chosen) == count:
            return sorted(chosen, key=planned.index)


def counts(records: Records) -> Mapping[str, int]:
    """How many of each kind there are."""
    matched = sum(example.attribute == "matched" for example in records.syneg)
    return {
        "tasks": len(records.tasks),
        "graded": len(records.graded),
        "items": len(records.items),
        "syneg_matched": matched,
        "syneg_free": len(records.syneg) - matched,
        "rejections": len(records.rejections),
    }


def _stratum(request: plan.Planned) -> tuple[str, str]:
    family, _, group, number, example = request.id.split("/")
    tasks = plan.recording_plan()["tasks_per_group"][group]
    return group, split_of(family, int(number), tasks, int(example))
