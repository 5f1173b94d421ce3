"""The shipped answers: what a large language model once said to the whole plan."""

from __future__ import annotations

import json

from nbutils.core.fields import Settings, field_of
from nbutils.core.files import read_jsonl, verify
from nbutils.llm.store import Answer
from nbutils.synthesis import plan
from nbutils.synthesis.replies import Planned


def recorded(family: str) -> list[tuple[Planned, str]]:
    """Every planned request of a family with the recorded text of its answer.

    LabError for an unknown family, and for a file that is missing or changed.
    """
    plan.domains(family)
    name = f"answers/{family}.jsonl"
    verify(plan.RECORDINGS / name)
    said = {row["id"]: row["response"] for row in read_jsonl(plan.RECORDINGS / name)}
    tasks = {
        group: dict(enumerate(said[f"{family}/brainstorm/{group}"]))
        for group in plan.recording_plan()["groups"]
    }
    seeds = list(plan.seed_requests(family))
    items = {
        number: (said[seed.id]["query"], said[seed.id]["positives"][0])
        for number, seed in enumerate(seeds)
    }
    requests = [
        *plan.brainstorm_requests(family),
        *seeds,
        *plan.mgh_requests(family, tasks),
        *plan.syneg_requests(family, items),
    ]
    return [(r, json.dumps(said[r.id], ensure_ascii=False)) for r in requests]


def recorded_answers(settings: Settings) -> dict[str, Answer]:
    """Key to recorded answer, the raw JSON text, of the settings' families.

    The recordings stand for the model "recorded" and the default decoding settings;
    under any others the same prompt is another request.
    """
    names = ("llm_model", "llm_temperature", "llm_top_p", "llm_max_tokens")
    recorded_with = settings.changed(**{n: field_of(n).default for n in names})
    answers = {}
    for family in settings.synthesis.families:
        for request, text in recorded(family):
            key = request.chat(recorded_with).key
            answers[key] = Answer(key, text, model="recorded", time="2026-11")
    return answers
