"""The plan of requests: which prompt, filled with which variables.

Every draw is seeded by the request's own id, so a request can be rendered again alone,
in any order. The attributes are those of E5-mistral's and SyNeg's prompts; the counts,
the families and their domains are the lab's (`data/recordings/plan.json`).
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from nbutils.core.errors import known
from nbutils.core.files import read_json, verify
from nbutils.core.settings import DATA
from nbutils.synthesis.parsing import BRAINSTORM, MGH, SEED, SYNEG
from nbutils.synthesis.replies import Planned, Prompt

RECORDINGS = DATA / "recordings"


@cache
def recording_plan() -> dict[str, Any]:
    """Families and domains, attribute lists and counts, with the groups' specs."""
    files = [RECORDINGS / f"{name}.json" for name in ("plan", "groups")]
    for path in files:
        verify(path)
    plan, groups = map(read_json, files)
    return {**plan, "groups": groups}


def domains(family: str) -> list[str]:
    """The domains of a family. LabError for a family that is not planned."""
    families = recording_plan()["families"]
    return families[known("family", family, families)]


def brainstorm_requests(family: str) -> Iterator[Planned]:
    """One request per group: brainstorm its tasks (E5-mistral, section 3.1)."""
    for group, count in recording_plan()["tasks_per_group"].items():
        variables = {
            "num_tasks": count,
            "group": group,
            "group_definition": recording_plan()["groups"][group]["definition"],
            "domains": ", ".join(domains(family)),
        }
        yield Planned(f"{family}/brainstorm/{group}", BRAINSTORM, variables)


def seed_requests(family: str) -> Iterator[Planned]:
    """One request per retrieval item: a query with three independent positives."""
    spec, own = recording_plan()["seed"], domains(family)
    forms = spec["query_form"]
    for i in range(spec["per_family"]):
        draw = random.Random(f"{family}/seed/{i}")
        variables = {
            "domain": own[i % len(own)],
            "query_form": forms[i // len(own) % len(forms)],
            "difficulty": draw.choice(spec["difficulty"]),
            "num_words": draw.choice(spec["num_words"]),
        }
        yield Planned(f"{family}/seed/{i:02d}", SEED, variables, sample=i)


def mgh_requests(
    family: str,
    tasks: Mapping[str, Mapping[int, str]],
    languages: Sequence[str] = ("English",),
) -> Iterator[Planned]:
    """Requests for graded examples; `tasks` maps a group to {task number: text}.

    The examples of a task take turns in `languages`.
    """
    for group in recording_plan()["groups"]:
        for number, task in tasks.get(group, {}).items():
            for example in range(recording_plan()["mgh"]["examples_per_task"]):
                language = languages[example % len(languages)]
                yield mgh_request(family, group, number, example, task, language)


def mgh_request(
    family: str,
    group: str,
    number: int,
    example: int,
    task: str,
    language: str = "English",
) -> Planned:
    """The request for one graded example of one task (Negative Matters, MGH)."""
    spec, kind = recording_plan()["mgh"], recording_plan()["groups"][group]
    draw = random.Random(f"{family}/{group}/{number}/{example}")
    lengths = spec["num_words"]
    # The order of the draws is part of the plan: each moves the generator on.
    chosen = {
        "query_type": draw.choice(spec["query_type"]),
        "query_length": draw.choice(spec["query_length"]),
        "num_words": draw.choice(lengths.get(group, lengths["other"])),
        "unit": draw.choice(spec["unit"]),
        "high_score": draw.choice(spec["high_score"]),
    }
    variables = {
        "task": task,
        "num_tasks": recording_plan()["tasks_per_group"][group],
        "group_definition": kind["definition"],
        "query_spec": kind["query_spec"].format(**chosen),
        "document_spec": kind["document_spec"].format(**chosen),
        "language": language,
        "difficulty": draw.choice(spec["difficulty"]),
        "clarity": draw.choice(spec["clarity"]),
    }
    name = f"{family}/mgh/{group}/{number}/{example}"
    return Planned(name, MGH, variables, sample=example)


def bitext_requests(family: str, languages: Sequence[str]) -> Iterator[Planned]:
    """Requests of the sixth group: a sentence and its translation, one a domain.

    From the first to the second of `languages` (E5-mistral's bitext group; what a
    graded negative of a translation is, is ours).
    """
    first, second = languages[:2]
    for number, domain in enumerate(domains(family)):
        variables = {
            "task": f"Given a sentence in {first}, retrieve its translation into "
            f"{second}",
            "num_tasks": 0,  # none is brainstormed, and none held out
            "group_definition": "bitext: the matching text is a translation of the "
            "query, complete and exact",
            "query_spec": f"a sentence in {first} of about 20 words on {domain}",
            "document_spec": f"its translation into {second}",
            "language": f"the query in {first}, every other text in {second}",
            "difficulty": "college",
            "clarity": "clear",
        }
        yield Planned(f"{family}/mgh/bitext/{number}/0", MGH, variables)


def syneg_requests(
    family: str,
    items: Mapping[int, tuple[str, str]],
    prompt: Prompt = SYNEG[True, True],
) -> Iterator[Planned]:
    """Requests for SyNeg negatives; `items` maps a number to (query, positive).

    Each item is asked at the positive's own level ("syneg"); where the freely drawn
    level is another one, as the paper has it, also at that level ("syneg-free"). A
    `prompt` without attributes has no level, so there each is asked once.
    """
    levelled = prompt in (SYNEG[True, True], SYNEG[False, True])
    spec, own = recording_plan()["syneg"], domains(family)
    for i, (query, positive) in items.items():
        draw = random.Random(f"{family}/syneg/{i}")
        free, length = draw.choice(spec["levels"]), draw.choice(spec["lengths"])
        matched = spec["matched_level"]
        kinds = [("syneg", "matched" if levelled else "none", matched)]
        if levelled and free != matched:
            kinds.append(("syneg-free", "free", free))
        example = {"user_query": query, "positive_document": positive}
        for stage, attribute, level in kinds:
            variables = {
                "domain_name": own[i % len(own)],
                "example": json.dumps(example, indent=1, ensure_ascii=False),
                "positive": positive,
                "num_negatives": spec["num_negatives"],
                "attribute": attribute,
                "difficult_level": level,
                "length": length,
            }
            yield Planned(f"{family}/{stage}/{i:02d}", prompt, variables)
