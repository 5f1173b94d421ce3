"""A second generator: what a small language model answered to the same requests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import pandas as pd

from nbutils.core.files import read_jsonl, verify, write_jsonl, write_sums
from nbutils.core.records import GradedExample, read_records, spread
from nbutils.core.retrieval import RetrievalSet
from nbutils.core.settings import read_config, resolve
from nbutils.llm.client import Client
from nbutils.synthesis.from_sets import seeded_requests
from nbutils.synthesis.judge import judge_requests
from nbutils.synthesis.parsing import parse
from nbutils.synthesis.plan import RECORDINGS, recorded
from nbutils.synthesis.replies import Planned

FOLDER = RECORDINGS / "second_generator"
MOST_WORDS = 250
"""Asked for in all, at most: an answer as long as it was asked to be is not cut off."""


def second_settings():
    """The settings under which the second generator is asked."""
    return resolve(overrides=read_config(FOLDER / "settings.yaml"))


def second_requests() -> dict[str, list[Planned]]:
    """Kind to its requests, of the plan and of the first generator's records.

    brainstorm, mgh and syneg: 5 of each of six families; judge: of 20 queries a planted
    answer and another passage each; level: 10 of the first generator's pairs of query
    and positive, each negative asked for alone.
    """
    settings, count = resolve(), 5
    records, made = read_records(settings), {"brainstorm": [], "mgh": [], "syneg": []}
    for family in settings.synthesis.families[:6]:
        plan = [r for r, _ in recorded(family) if r.words <= MOST_WORDS]
        for stage, chosen in made.items():
            own = [r for r in plan if r.stage == stage]
            chosen += spread(own, count, lambda r: (r.known.get("group", ""), ""))
    asked = {request.id for request in made["mgh"]}
    graded = [example for example in records.graded if example.id in asked][::3]
    made["judge"] = _judged(records.items, records.graded)
    level = settings.changed(mgh_calls="level")
    made["level"] = seeded_requests(_pairs(graded), level)
    return made


def _judged(items, graded) -> list[Planned]:
    """For 20 recorded verdicts on planted answers, one on another passage beside each."""
    rows = pd.DataFrame(read_jsonl(RECORDINGS / "verdicts.jsonl"))
    rows["planted"] = [
        d.startswith(f"{q}/") for q, d in zip(rows.query_id, rows.document_id, strict=True)
    ]
    first = rows.groupby(["query_id", "planted"], sort=False).first().reset_index()
    both = first[first.groupby("query_id")["planted"].transform("size") == 2]
    queries = both["query_id"].unique()
    both = both[both["query_id"].isin(queries[:: len(queries) // 20][:20])]
    texts = {k: t for record in (*items, *graded) for k, t in record.documents().items()}
    return judge_requests(
        zip(both.query_id, both.document_id, strict=True),
        {item.id: item.query for item in items},
        texts,
    )


def _pairs(graded: Sequence[GradedExample]) -> RetrievalSet:
    """The examples' queries with their positives, as a set to write negatives for."""
    rows = [(f"{e.id}/P", e.positive) for e in graded]
    return RetrievalSet(
        "recorded",
        {e.id: e.query for e in graded},
        pd.DataFrame(rows, columns=["id", "text"]),
        {e.id: [f"{e.id}/P"] for e in graded},
    )


def write_shipped() -> None:
    """Ask for every answer that the store lacks, and write all as files, with sums."""
    settings = second_settings()
    client = Client(settings)
    for kind, requests in second_requests().items():
        answers = client.complete_many(r.chat(settings) for r in requests)
        rows = [
            {"id": r.id, "response": a.text, "finish": a.finish, "usage": a.usage}
            for r, a in zip(requests, answers, strict=True)
        ]
        write_jsonl(FOLDER / f"{kind}.jsonl", rows)
    client.close()
    write_sums(RECORDINGS)
