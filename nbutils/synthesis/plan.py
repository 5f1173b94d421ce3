"""The plan of requests: which prompt, filled with which variables.

Every draw is seeded by the request's own id, so a request can be rendered again alone,
in any order. The attributes are those of E5-mistral's and SyNeg's prompts; the counts,
the families and their domains are the lab's (`data/recordings/plan.json`).
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from nbutils.core.errors import LabError
from nbutils.core.fields import Settings
from nbutils.core.files import read_sums, verify
from nbutils.core.settings import DATA
from nbutils.llm.client import ChatRequest, chat_request

RECORDINGS = DATA / "recordings"
PROMPTS = DATA / "prompts"
TEMPLATES = ("brainstorm", "seed", "mgh", "syneg")
"""The prompts of the recordings: fixed, for a changed one is another request."""


@dataclass(frozen=True)
class Planned:
    """A request before it is rendered: a template and what fills it.

    `sample` numbers the askings of a stage: the draws of two examples of a task often
    coincide, and the same prompt asked twice must not be answered once.
    """

    id: str
    template: str
    variables: Mapping[str, Any]
    sample: int = 0

    @property
    def family(self) -> str:
        return self.id.split("/")[0]

    @property
    def stage(self) -> str:
        return self.id.split("/")[1]

    @property
    def prompt(self) -> str:
        """The prompt as the model reads it."""
        return prompts()[self.template].format(**self.variables)

    def chat(self, settings: Settings) -> ChatRequest:
        """The request that goes to the client."""
        return chat_request(self.id, self.prompt, self.template, settings, self.sample)


@lru_cache
def recording_plan() -> dict[str, Any]:
    """Families and domains, attribute lists and counts, with the groups' specs."""
    verify(RECORDINGS / "plan.json")
    verify(RECORDINGS / "groups.json")
    value = json.loads((RECORDINGS / "plan.json").read_text(encoding="utf-8"))
    groups = json.loads((RECORDINGS / "groups.json").read_text(encoding="utf-8"))
    return {**value, "groups": groups}


@lru_cache
def prompts() -> dict[str, str]:
    """The prompt templates by name: those of the recordings, and the lab's others."""
    verify(PROMPTS)
    return {
        Path(name).stem: (PROMPTS / name).read_text(encoding="utf-8")
        for name in read_sums(PROMPTS)
    }


def domains(family: str) -> list[str]:
    """The domains of a family. LabError for a family that is not planned."""
    known = recording_plan()["families"]
    if family not in known:
        raise LabError(f"unknown family {family!r} (known: {', '.join(known)})")
    return known[family]


def brainstorm_requests(family: str) -> Iterator[Planned]:
    """One request per group: brainstorm its tasks (E5-mistral, section 3.1)."""
    for group, count in recording_plan()["tasks_per_group"].items():
        yield Planned(
            f"{family}/brainstorm/{group}",
            "brainstorm",
            {
                "num_tasks": count,
                "group": group,
                "group_definition": recording_plan()["groups"][group]["definition"],
                "domains": ", ".join(domains(family)),
            },
        )


def seed_requests(family: str) -> Iterator[Planned]:
    """One request per retrieval item: a query with three independent positives."""
    spec, known = recording_plan()["seed"], domains(family)
    for i in range(spec["per_family"]):
        draw = random.Random(f"{family}/seed/{i}")
        forms = spec["query_form"]
        yield Planned(
            f"{family}/seed/{i:02d}",
            "seed",
            {
                "domain": known[i % len(known)],
                "query_form": forms[i // len(known) % len(forms)],
                "difficulty": draw.choice(spec["difficulty"]),
                "num_words": draw.choice(spec["num_words"]),
            },
            sample=i,
        )


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


def bitext_requests(family: str, languages: Sequence[str]) -> Iterator[Planned]:
    """Requests of the sixth group: a sentence and its translation, one a domain.

    From the first to the second of `languages` (E5-mistral's bitext group; what a
    graded negative of a translation is, is ours). LabError for fewer than two.
    """
    if len(languages) < 2:
        raise LabError("bitext needs two languages: name them in `languages`")
    first, second = languages[:2]
    for number, domain in enumerate(domains(family)):
        yield Planned(
            f"{family}/mgh/bitext/{number}/0",
            "mgh",
            {
                "task": f"Given a sentence in {first}, retrieve its translation into "
                f"{second}",
                "group_definition": "bitext: the matching text is a translation of "
                "the query, complete and exact",
                "query_spec": f"a sentence in {first} of about 20 words on {domain}",
                "document_spec": f"its translation into {second}",
                "language": f"the query in {first}, every other text in {second}",
                "difficulty": "college",
                "clarity": "clear",
            },
        )


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
    return Planned(
        f"{family}/mgh/{group}/{number}/{example}",
        "mgh",
        {
            "task": task,
            "group_definition": kind["definition"],
            "query_spec": kind["query_spec"].format(**chosen),
            "document_spec": kind["document_spec"].format(**chosen),
            "language": language,
            "difficulty": draw.choice(spec["difficulty"]),
            "clarity": draw.choice(spec["clarity"]),
        },
        sample=example,
    )


def syneg_template(reflection: bool = True, attributes: bool = True) -> str:
    """The name of SyNeg's prompt with or without its two parts (SyNeg, ablation)."""
    names = {
        (True, True): "syneg",
        (True, False): "syneg_no_attributes",
        (False, True): "syneg_no_reflection",
        (False, False): "syneg_plain",
    }
    return names[reflection, attributes]


def syneg_requests(
    family: str, items: Mapping[int, tuple[str, str]], template: str = "syneg"
) -> Iterator[Planned]:
    """Requests for SyNeg negatives; `items` maps a number to (query, positive).

    Each item is asked at the positive's own level ("syneg"); where the freely drawn
    level is another one, as the paper has it, also at that level ("syneg-free"). A
    `template` without attributes has no level, so there each is asked once.
    """
    levelled = "{difficult_level}" in prompts()[template]
    spec, known = recording_plan()["syneg"], domains(family)
    for i, (query, positive) in items.items():
        draw = random.Random(f"{family}/syneg/{i}")
        free, length = draw.choice(spec["levels"]), draw.choice(spec["lengths"])
        matched = spec["matched_level"]
        kinds = [("syneg", matched)]
        if levelled and free != matched:
            kinds.append(("syneg-free", free))
        example = {"user_query": query, "positive_document": positive}
        for kind, level in kinds:
            yield Planned(
                f"{family}/{kind}/{i:02d}",
                template,
                {
                    "domain_name": known[i % len(known)],
                    "example": json.dumps(example, indent=1, ensure_ascii=False),
                    "num_negatives": spec["num_negatives"],
                    "difficult_level": level,
                    "length": length,
                },
            )


def prompt_digest(request: Planned) -> str:
    """First 16 hex digits of the sha256 of the rendered prompt."""
    return hashlib.sha256(request.prompt.encode()).hexdigest()[:16]


def line_digest(line: bytes) -> str:
    """First 16 hex digits of the sha256 of a line without its end."""
    return hashlib.sha256(line.rstrip(b"\r\n")).hexdigest()[:16]


def digests(family: str) -> list[tuple[str, str, str]]:
    """(request id, prompt's digest, answer line's digest) in the file's order."""
    rows = (RECORDINGS / "digests.csv").read_text(encoding="utf-8").splitlines()[1:]
    split = (tuple(row.split(",")) for row in rows)
    return [row for row in split if row[0].startswith(f"{family}/")]


def _damaged_line(folder: Path, name: str) -> int | None:
    path, family = folder / name, Path(name).stem
    if not path.is_file() or not (RECORDINGS / "digests.csv").is_file():
        return None
    lines = path.read_bytes().splitlines()
    for number, row in enumerate(digests(family), 1):
        if number > len(lines) or line_digest(lines[number - 1]) != row[2]:
            return number
    return None
