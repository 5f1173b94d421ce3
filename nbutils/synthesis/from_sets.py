"""Graded negatives for the samples of a retrieval set (Negative Matters, stage 2).

The paper seeds its examples with brainstormed tasks or with samples of public retrieval
sets. Here a sample keeps its query and its positive and gets the four negatives (our
reading): in one call for the whole ladder, or in one call for each level.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from nbutils.core.fields import Settings
from nbutils.core.records import LEVELS, GradedExample, Record, Rejection, RetrievalItem
from nbutils.core.retrieval import read_set
from nbutils.llm.client import Client
from nbutils.synthesis import replies
from nbutils.synthesis.asking import Watch, fulfil
from nbutils.synthesis.parsing import Rejected, check_texts, guarded, read_reply
from nbutils.synthesis.plan import Planned
from nbutils.synthesis.replies import LadderReply, LevelReply

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
class Seed:
    """A query and its positive from some retrieval set; `source` names the set."""

    id: str
    source: str
    query: str
    positive: str


class Level(Record):
    """One negative of a seed, asked for alone."""

    id: str
    level: str
    text: str


SCHEMAS = {
    "mgh_seeded": LadderReply.model_json_schema(),
    "mgh_level": LevelReply.model_json_schema(),
}


def from_items(items: Iterable[RetrievalItem]) -> list[Seed]:
    """Seeds from the recorded retrieval items: query and labelled positive."""
    return [
        Seed(item.id, "recordings", item.query, item.positives[0]) for item in items
    ]


def from_beir(folder: str | Path, split: str = "train", limit: int = 0) -> list[Seed]:
    """Seeds from a folder in BEIR's format: each query with its first relevant text.

    Reads corpus.jsonl, queries.jsonl and qrels/SPLIT.tsv (query-id, corpus-id, score);
    `limit` 0: all. Raises LabError for a file, split or text that is missing.
    """
    data = read_set(folder, split)
    return [
        Seed(query, data.name, data.queries[query], data.documents[own[0]])
        for query, own in list(data.positives.items())[: limit or None]
    ]


def graded_from_seeds(
    seeds: Sequence[Seed],
    settings: Settings,
    client: Client,
    watch: Watch | None = None,
) -> tuple[list[GradedExample], list[Rejection]]:
    """Ask for the four negatives of every seed, by the setting `mgh_calls`.

    `ladder`: one call; `level`: four calls, each with its level in words, and a seed
    with a level that stays rejected is rejected whole.
    """
    client.schemas = {**client.schemas, **SCHEMAS}
    if settings.synthesis.mgh_calls == "ladder":
        requests = [
            _request(seed, "mgh_seeded", _language(n, settings))
            for n, seed in enumerate(seeds)
        ]
        parsers = {"mgh_seeded": _parse_ladder}
        return fulfil(requests, settings, client, watch, parsers)
    requests = [
        _request(seed, "mgh_level", _language(n, settings), level)
        for n, seed in enumerate(seeds)
        for level in LEVELS
    ]
    parsers = {"mgh_level": _parse_level}
    levels, rejections = fulfil(requests, settings, client, watch, parsers)
    found: dict[str, dict[str, str]] = {}
    for one in levels:
        found.setdefault(one.id.rsplit("/", 1)[0], {})[one.level] = one.text
    examples = []
    for seed in seeds:
        name = _id(seed)
        ladder = found.get(name, {})
        texts = [ladder[level] for level in LEVELS if level in ladder]
        if len(texts) == len(LEVELS):
            fault = guarded(lambda s, _, t=texts: _example(s, t), seed, "")
            keep = rejections if isinstance(fault, Rejection) else examples
            keep.append(fault)
    return examples, rejections


def _language(number: int, settings: Settings) -> str:
    return settings.synthesis.languages[number % len(settings.synthesis.languages)]


def _id(seed: Seed) -> str:
    return f"{seed.source}/mgh-seeded/{seed.id}"


def _request(seed: Seed, template: str, language: str, level: str = "") -> Planned:
    variables = {"query": seed.query, "positive": seed.positive, "language": language}
    name = _id(seed)
    if level:
        variables |= {"level": LEVEL_TEXTS[level], "name": level}
        name = f"{name}/{level}"
    return Planned(name, template, {**variables, "seed": seed})


def _parse_ladder(request: Planned, text: str) -> GradedExample | Rejection:
    return guarded(_ladder, request, text)


def _ladder(request: Planned, text: str) -> GradedExample:
    reply = read_reply(LadderReply, text)
    levels = [negative.similarity_level for negative in reply.hard_negative_examples]
    if levels != replies.LEVEL_NAMES:
        raise Rejected("wrong_levels", f"levels are {', '.join(levels)}")
    texts = [negative.text for negative in reply.hard_negative_examples]
    return _example(request.variables["seed"], texts)


def _example(seed: Seed, negatives: Sequence[str]) -> GradedExample:
    check_texts([seed.query, seed.positive, *negatives], None)
    return GradedExample(
        id=_id(seed),
        family=seed.source,
        group="retrieval",
        task_id=f"{seed.source}/retrieval",
        task=TASK,
        query=seed.query,
        positive=seed.positive,
        negatives=tuple(negatives),
        split="train",
    )


def _parse_level(request: Planned, text: str) -> Level | Rejection:
    return guarded(_level, request, text)


def _level(request: Planned, text: str) -> Level:
    reply = read_reply(LevelReply, text)
    seed = request.variables["seed"]
    check_texts([seed.query, seed.positive, reply.text], None)
    return Level(id=request.id, level=request.variables["name"], text=reply.text)
