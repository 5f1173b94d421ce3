"""The shipped answers as a read-only store."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nbutils.core.errors import LabError
from nbutils.core.fields import Settings, field_of
from nbutils.core.files import read_jsonl, verify
from nbutils.llm.client import Answer
from nbutils.synthesis.plan import (
    RECORDINGS,
    Planned,
    _damaged_line,
    brainstorm_requests,
    domains,
    mgh_requests,
    recording_plan,
    seed_requests,
    syneg_requests,
)


def recorded_responses(family: str, folder: Path | None = None) -> dict[str, Any]:
    """Request id to recorded response, from verified files.

    Raises LabError that names the file, and the line where it can be told.
    """
    folder = folder or RECORDINGS
    name = f"answers/{family}.jsonl"
    try:
        verify(folder / name)
    except LabError as error:
        line = _damaged_line(folder, name)
        where = f"; the first fault is in line {line}" if line else ""
        raise LabError(f"{error}{where}") from None
    return {row["id"]: row["response"] for row in read_jsonl(folder / name)}


def recorded_requests(family: str, responses: Mapping[str, Any]) -> Iterator[Planned]:
    """Every planned request of a family whose recorded answers are `responses`."""
    yield from brainstorm_requests(family)
    yield from seed_requests(family)
    tasks = {
        group: dict(enumerate(responses.get(f"{family}/brainstorm/{group}", [])))
        for group in recording_plan()["groups"]
    }
    yield from mgh_requests(family, tasks)
    items = {}
    for i in range(recording_plan()["seed"]["per_family"]):
        if seed := responses.get(f"{family}/seed/{i:02d}"):
            items[i] = (seed["query"], seed["positives"][0])
    yield from syneg_requests(family, items)


def recorded_answers(
    families: Iterable[str], settings: Settings, folder: Path | None = None
) -> dict[str, Answer]:
    """Key to recorded answer, the raw JSON text, for every recorded request.

    The recordings stand for the model "recorded" and the default decoding settings;
    under any others the same prompt is another request.
    """
    names = ("llm_model", "llm_temperature", "llm_top_p", "llm_max_tokens")
    default = {name: field_of(name).default for name in names}
    recorded_with = settings.changed(**default)
    answers = {}
    for family in families:
        domains(family)
        responses = recorded_responses(family, folder)
        texts = recorded_texts(responses)
        for request in recorded_requests(family, responses):
            if request.id in texts:
                key = request.chat(recorded_with).key
                text = texts[request.id]
                answers[key] = Answer(key, text, model="recorded", time="2026-11")
    return answers


def recorded_texts(responses: Mapping[str, Any]) -> dict[str, str]:
    """Request id to the answer's text, as a server would have sent it."""
    return {
        name: json.dumps(response, ensure_ascii=False)
        for name, response in responses.items()
    }
