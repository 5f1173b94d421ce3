"""A second generator: what a small language model answered to the same requests.

It is the lab's student with all its layers, served on this machine (the README of
`data/recordings` says how). Its answers are read by the same parser as any others.
"""

import json
import re
from typing import Any

import pandas as pd

from nbutils.core.files import read_jsonl, verify, write_jsonl, write_sums
from nbutils.core.records import Rejection, read_records
from nbutils.core.retrieval import RetrievalSet
from nbutils.core.settings import Settings, read_config, resolve
from nbutils.llm.client import Client
from nbutils.synthesis.from_sets import STAGE, seeded_requests
from nbutils.synthesis.judge import judge_requests
from nbutils.synthesis.prompts import RECORDINGS, Planned, recorded
from nbutils.synthesis.replies import parse

FOLDER = RECORDINGS / "second_generator"
KINDS = ("brainstorm", "mgh", "syneg", "judge", "level")


def second_settings() -> Settings:
    """The settings under which the second generator is asked."""
    return resolve(overrides=read_config(FOLDER / "settings.yaml"))


def second_requests() -> dict[str, list[Planned]]:
    """Kind to its requests: those whose answers are shipped, in that order.

    brainstorm, mgh and syneg: 15, 8 and 8 of the plan's, of six families; judge: of 20
    queries a planted answer and another passage each; level: each negative of 5 of the
    first generator's pairs alone. LabError for a file that is missing or changed.
    """
    verify(RECORDINGS)
    settings = resolve()
    records = read_records(settings)
    known = (*records.items, *records.graded)
    texts = {name: text for one in known for name, text in one.documents().items()}
    judged = read_jsonl(RECORDINGS / "verdicts.jsonl")
    pairs = RetrievalSet(
        "recorded",
        {example.id: example.query for example in records.graded},
        pd.DataFrame(texts.items(), columns=["id", "text"]),
        {example.id: [f"{example.id}/P"] for example in records.graded},
    )
    planned = [
        *(r for family in settings.synthesis.families for r, _ in recorded(family)),
        *judge_requests(
            [(row["query_id"], row["document_id"]) for row in judged],
            {item.id: item.query for item in records.items},
            texts,
        ),
        *seeded_requests(pairs, settings.changed(mgh_calls="level")),
    ]
    by_id = {request.id: request for request in planned}
    said = {kind: read_jsonl(FOLDER / f"{kind}.jsonl") for kind in KINDS}
    return {kind: [by_id[row["id"]] for row in rows] for kind, rows in said.items()}


def second_answers() -> pd.DataFrame:
    """One row an answer, with what the parser makes of it.

    kind, id; outcome: "accepted", or the reason why not (`replies.REASONS`) with its
    detail; loose: the same where an answer without JSON is read by LOOSE; response;
    tokens; record: what was read, loosely where it must be, or None; query (level);
    first: the first generator's negative (level) or verdict (judge).
    """
    rows, first = [], _first_generator()
    for kind, requests in second_requests().items():
        answers = read_jsonl(FOLDER / f"{kind}.jsonl")
        for request, said in zip(requests, answers, strict=True):
            text = said["response"]
            made = strict = parse(request, text, said["finish"])
            if kind in LOOSE and _outcome(strict) == "not_json":
                made = parse(request, json.dumps(LOOSE[kind](text)))
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
    verdicts = read_jsonl(RECORDINGS / "verdicts.jsonl")
    said = {row["id"]: row["response"]["answers"] for row in verdicts}
    for example in read_records(resolve()).graded:
        for name, text in example.documents().items():
            said[f"recorded/{STAGE}/{name}"] = text
    return said


def _outcome(made: Any) -> str:
    return made.reason if isinstance(made, Rejection) else "accepted"


def _verdict(text: str) -> dict[str, Any]:
    first = text.strip().split(". ")[0]
    return {"reason": first, "answers": re.search(r"\bnot\b", first) is None}


LOOSE = {"level": lambda text: {"text": text.strip()}, "judge": _verdict}
"""How an answer without JSON can be read: all of it as the text that was asked for; a
verdict as "answers" where its first sentence has no "not"."""


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
