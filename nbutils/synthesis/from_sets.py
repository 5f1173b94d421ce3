"""Graded negatives for the samples of a retrieval set (Negative Matters, stage 2).

The paper seeds its examples with brainstormed tasks or with samples of public retrieval
sets. Here a sample keeps its query and its positive and gets the four negatives (our
reading): in one call for the whole ladder, or in one call for each level.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from nbutils.core.fields import Settings
from nbutils.core.files import write_jsonl
from nbutils.core.records import LEVELS, GradedExample, Rejection
from nbutils.core.retrieval import RetrievalSet
from nbutils.core.settings import ROOT
from nbutils.llm.client import Client
from nbutils.llm.store import Store
from nbutils.synthesis import recording
from nbutils.synthesis.asking import Watch, fulfil
from nbutils.synthesis.parsing import Rejected, check_texts, ladder_texts
from nbutils.synthesis.replies import LadderReply, LevelReply, Planned, Prompt

STAGE = "mgh-seeded"
TASK = "Given a query, retrieve the text that matches it"
LEVEL_TEXTS = {
    "N1": "nearly the matching text in topic, wording and form, but one decisive fact, "
    "entity, quantity, condition or relation differs",
    "N2": "the same narrow topic, serving a neighbouring need and not this one",
    "N3": "the same wider subject with some shared vocabulary, about another aspect or "
    "another thing",
    "N4": "the same general domain only",
}
"""The levels in words, as the one-call prompt has them."""


@dataclass(frozen=True)
class Sample:
    """A query and its first positive of a retrieval set; `source` names the set."""

    source: str
    query_id: str
    query: str
    positive: str

    @property
    def id(self) -> str:
        return f"{self.source}/{STAGE}/{self.query_id}"


def samples_of(data: RetrievalSet, limit: int = 0) -> list[Sample]:
    """The first `limit` queries (0: all), each with its first positive."""
    texts = dict(zip(data.corpus["id"], data.corpus["text"], strict=True))
    return [
        Sample(data.name, query, text, texts[data.positives[query][0]])
        for query, text in list(data.queries.items())[: limit or None]
    ]


def seeded_requests(samples: Sequence[Sample], settings: Settings) -> list[Planned]:
    """What is asked, by the setting `mgh_calls`: `ladder`, one request a sample, or
    `level`, four. Samples take turns in `languages`."""
    languages = settings.synthesis.languages
    requests = []
    for number, sample in enumerate(samples):
        variables = {
            "query": sample.query,
            "positive": sample.positive,
            "language": languages[number % len(languages)],
            "sample": sample,
        }
        if settings.synthesis.mgh_calls == "ladder":
            requests.append(Planned(sample.id, LADDER, variables))
            continue
        for name, words in LEVEL_TEXTS.items():
            by_level = {**variables, "level": words, "name": name}
            requests.append(Planned(f"{sample.id}/{name}", LEVEL, by_level))
    return requests


def graded_samples(
    samples: Sequence[Sample],
    settings: Settings,
    client: Client,
    watch: Watch | None = None,
) -> tuple[list[GradedExample], list[Rejection]]:
    """Ask for the four negatives of every sample.

    Asked level by level, a sample with a level that stays rejected is left out whole.
    """
    requests = seeded_requests(samples, settings)
    made, rejections = fulfil(requests, settings, client, watch)
    if settings.synthesis.mgh_calls == "ladder":
        return made, rejections
    texts = {(sample, level): text for sample, level, text in made}
    examples = []
    for sample in samples:
        negatives = [texts.get((sample, level)) for level in LEVELS]
        if None in negatives:
            continue
        try:
            examples.append(_example(sample, negatives))
        except Rejected as fault:
            reason, detail = fault.args
            found = Rejection(id=sample.id, reason=reason, detail=detail)
            rejections.append(found)
    return examples, rejections


def _example(sample: Sample, negatives: Sequence[str]) -> GradedExample:
    check_texts([sample.query, sample.positive, *negatives])
    return GradedExample(
        id=sample.id,
        family=sample.source,
        group="retrieval",
        task_id=f"{sample.source}/retrieval",
        task=TASK,
        query=sample.query,
        positive=sample.positive,
        negatives=tuple(negatives),
        split="train",
    )


def _ladder(request: Planned, reply: LadderReply) -> GradedExample:
    return _example(request.variables["sample"], ladder_texts(reply))


def _level(request: Planned, reply: LevelReply) -> tuple[Sample, str, str]:
    sample = request.variables["sample"]
    check_texts([sample.query, sample.positive, reply.text])
    return sample, request.variables["name"], reply.text


LADDER = Prompt("mgh_seeded", LadderReply, _ladder)
LEVEL = Prompt("mgh_level", LevelReply, _level)


def estimate(samples: Sequence[Sample], settings: Settings) -> pd.DataFrame:
    """What grading would ask and cost: each negative as long as the positive."""
    requests = seeded_requests(samples, settings)
    texts = 4 if settings.synthesis.mgh_calls == "ladder" else 1
    positives = recording.token_counter()(r.variables["positive"] for r in requests)
    lengths = [texts * (count + 12) for count in positives]  # 12: its keys and quotes
    store = Store(ROOT / settings.llm.store)
    return recording.estimated({STAGE: (requests, lengths)}, settings, store)


def grade(
    samples: Sequence[Sample], settings: Settings, out: Path, batch: bool
) -> None:
    """Grade with a live table on the terminal, and write the examples as JSONL."""
    with recording.on_terminal(settings, batch) as (client, watch):
        made, rejected = graded_samples(samples, settings, client, watch(STAGE))
    count = write_jsonl(out, made)
    print(f"{count} graded examples, {len(rejected)} rejected for good: {out}")
