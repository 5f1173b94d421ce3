"""A second generator: what a small language model answered to the same requests.

It is the lab's student with all its layers, served on this machine (the README of
`data/recordings` says how). Its answers are read by the same parser as any others.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pandas as pd

from nbutils.core.fields import Settings
from nbutils.core.files import read_jsonl, verify, write_jsonl, write_sums
from nbutils.core.records import (
    LEVELS,
    GradedExample,
    Records,
    Rejection,
    read_records,
    spread,
)
from nbutils.core.retrieval import RetrievalSet
from nbutils.core.settings import read_config, resolve
from nbutils.llm.client import Client
from nbutils.synthesis.from_sets import STAGE, LevelReply, seeded_requests
from nbutils.synthesis.judge import JudgeReply, judge_requests
from nbutils.synthesis.parsing import Rejected, parse
from nbutils.synthesis.plan import RECORDINGS, recorded
from nbutils.synthesis.replies import Planned, Reply

FOLDER = RECORDINGS / "second_generator"
MOST_WORDS = 250
"""Asked for in all, at most: an answer as long as it was asked to be is not cut off."""


def second_settings() -> Settings:
    """The settings under which the second generator is asked."""
    return resolve(overrides=read_config(FOLDER / "settings.yaml"))


def second_requests() -> dict[str, list[Planned]]:
    """Kind to its requests, of the plan and of the first generator's records.

    brainstorm, mgh and syneg: 15, 8 and 8, of six families; judge: of 20 queries a
    planted answer and another passage each; level: 5 of the first generator's pairs of
    query and positive, each negative asked for alone.
    """
    settings = resolve()
    records, made = read_records(settings), {"brainstorm": [], "mgh": [], "syneg": []}
    for family in settings.synthesis.families[:6]:
        plan = [r for r, _ in recorded(family) if r.words <= MOST_WORDS]
        for stage, chosen in made.items():
            own = [r for r in plan if r.stage == stage]
            chosen += spread(own, 5, lambda r: (r.known.get("group", ""), ""))
    asked = {request.id for request in made["mgh"]}
    graded = [example for example in records.graded if example.id in asked]
    every = {"brainstorm": 2, "mgh": 4, "syneg": 4}
    made = {stage: requests[:: every[stage]] for stage, requests in made.items()}
    made["judge"] = _judged(records)
    level = settings.changed(mgh_calls="level")
    made["level"] = seeded_requests(_pairs(graded[:15:3]), level)
    return made


def second_answers() -> pd.DataFrame:
    """One row an answer, with what the parser makes of it.

    kind, id; outcome: "accepted", or the reason why not (`parsing.REASONS`) with its
    detail; loose: the same where an answer without JSON is read by LOOSE; response;
    tokens; record: what was read, loosely where it must be, or None; query (level);
    first: the first generator's negative (level) or verdict (judge). LabError for a
    file that is missing or changed.
    """
    rows, first = [], _first_generator()
    for kind, requests in second_requests().items():
        verify(path := FOLDER / f"{kind}.jsonl")
        asked = {request.id: request for request in requests}
        for said in read_jsonl(path):
            request, text = asked[said["id"]], said["response"]
            made = strict = parse(request, text, said["finish"])
            if kind in LOOSE and _outcome(strict) == "not_json":
                made = _loosely(request, LOOSE[kind](text))
            told = strict.detail if isinstance(strict, Rejection) else ""
            rows.append({
                "kind": kind, "id": request.id, "outcome": _outcome(strict),
                "detail": told, "loose": _outcome(made) if kind in LOOSE else "",
                "response": text, "tokens": said["usage"]["completion_tokens"],
                "record": None if isinstance(made, Rejection) else made,
                "query": request.known.get("query", ""), "first": first.get(request.id),
            })  # fmt: skip
    return pd.DataFrame(rows)


def _first_generator() -> dict[str, str | bool]:
    """Of requests of kind level and judge: what the first generator wrote or said."""
    said = read_jsonl(RECORDINGS / "verdicts.jsonl")
    verdicts = {row["id"]: row["response"]["answers"] for row in said}
    texts = {
        f"recorded/{STAGE}/{example.id}/{level}": text
        for example in read_records(resolve()).graded
        for level, text in zip(LEVELS, example.negatives, strict=True)
    }
    return verdicts | texts


def _outcome(made: Any) -> str:
    return made.reason if isinstance(made, Rejection) else "accepted"


def _loosely(request: Planned, reply: Reply) -> Any:
    """The record of a reply that was read loosely, or why it is none."""
    try:
        return reply.record(request)
    except Rejected as fault:
        reason, detail = fault.args
        return Rejection(id=request.id, reason=reason, detail=detail)


def _verdict(text: str) -> JudgeReply:
    first = text.strip().split(". ")[0]
    return JudgeReply(reason=first, answers=re.search(r"\bnot\b", first) is None)


LOOSE = {"level": lambda text: LevelReply(text=text.strip()), "judge": _verdict}
"""How an answer without JSON can be read: all of it as the text that was asked for; a
verdict as "answers" where its first sentence has no "not"."""


def _judged(records: Records) -> list[Planned]:
    """Of 20 queries the first recorded pair that is planted and the first other one."""
    rows = pd.DataFrame(read_jsonl(RECORDINGS / "verdicts.jsonl"))
    pairs = zip(rows["query_id"], rows["document_id"], strict=True)
    rows["planted"] = [document.startswith(f"{query}/") for query, document in pairs]
    first = rows.groupby(["query_id", "planted"], sort=False).first().reset_index()
    both = first[first.groupby("query_id")["planted"].transform("size") == 2]
    queries = both["query_id"].unique()
    both = both[both["query_id"].isin(queries[:: len(queries) // 20][:20])]
    known = (*records.items, *records.graded)
    return judge_requests(
        zip(both["query_id"], both["document_id"], strict=True),
        {item.id: item.query for item in records.items},
        {name: text for one in known for name, text in one.documents().items()},
    )


def _pairs(graded: Sequence[GradedExample]) -> RetrievalSet:
    """The examples' queries with their positives, as a set to write negatives for."""
    ids = [f"{example.id}/P" for example in graded]
    texts = [example.positive for example in graded]
    return RetrievalSet(
        "recorded",
        {example.id: example.query for example in graded},
        pd.DataFrame({"id": ids, "text": texts}),
        {example.id: [f"{example.id}/P"] for example in graded},
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
