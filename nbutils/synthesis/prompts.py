"""The plan of requests: which prompt, filled with which variables; and the recordings.

Every draw is seeded by the request's own id, so a request can be rendered again alone.
The attributes are those of E5-mistral's and SyNeg's prompts; the counts, the families
and their domains are the lab's (`data/recordings/plan.json`).
"""

import json
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from pydantic import BaseModel

from nbutils.core.errors import known
from nbutils.core.files import read_json, read_jsonl, read_sums, verify
from nbutils.core.records import RetrievalItem, Task, split_of
from nbutils.core.settings import DATA, Settings
from nbutils.core.text import words
from nbutils.llm.store import Answer, ChatRequest, chat_request
from nbutils.synthesis.replies import BRAINSTORM, MGH, SEED, SYNEG, Prompt, parse

RECORDINGS, TEMPLATES = DATA / "recordings", DATA / "prompts"


@cache
def templates() -> dict[str, str]:
    """The shipped templates by name: a changed one would be another request."""
    verify(TEMPLATES)
    return {Path(n).stem: (TEMPLATES / n).read_text() for n in read_sums(TEMPLATES)}


@cache
def schema(reply: type[BaseModel]) -> dict[str, Any]:
    """The JSON schema of a reply, for servers with structured output."""
    return reply.model_json_schema()


@dataclass(frozen=True)
class Planned:
    """A request before it is rendered: a prompt and what fills it.

    `variables` may hold more than the template names: what the answer is checked by.
    `known` are the fields of its record that no answer decides; `words` how many words
    are asked for in all (0: not said). `sample` tells equal texts of a stage apart: the
    draws of two examples of a task often coincide.
    """

    id: str
    prompt: Prompt
    variables: Mapping[str, Any]
    sample: int = 0
    known: Mapping[str, Any] = field(default_factory=dict)
    words: int = 0

    @property
    def stage(self) -> str:
        return self.id.split("/")[1]

    @property
    def text(self) -> str:
        """The prompt as the model reads it."""
        return templates()[self.prompt.template].format(**self.variables)

    def chat(self, settings: Settings) -> ChatRequest:
        """The request that goes to the client."""
        name, form = self.prompt.template, schema(self.prompt.reply)
        return chat_request(self.id, self.text, name, settings, self.sample, form)


@cache
def recording_plan() -> dict[str, Any]:
    """Families and domains, attribute lists and counts, with the groups' specs."""
    files = RECORDINGS / "plan.json", RECORDINGS / "groups.json"
    for path in files:
        verify(path)
    plan, groups = map(read_json, files)
    return {**plan, "groups": groups}


def domains(family: str) -> list[str]:
    """LabError for a family that is not planned."""
    families = recording_plan()["families"]
    return families[known("family", family, families)]


def brainstorm_requests(family: str) -> Iterator[Planned]:
    """One request per group: brainstorm its tasks (E5-mistral, section 3.1)."""
    plan = recording_plan()
    for group, count in plan["tasks_per_group"].items():
        variables = {"num_tasks": count, "group": group}
        variables["domains"] = ", ".join(domains(family))
        variables["group_definition"] = plan["groups"][group]["definition"]
        own = {"family": family, "group": group}
        yield Planned(f"{family}/brainstorm/{group}", BRAINSTORM, variables, known=own)


def seed_requests(family: str) -> Iterator[Planned]:
    """One request per retrieval item: a query with three independent positives."""
    spec, own = recording_plan()["seed"], domains(family)
    forms, split = spec["query_form"], split_of(family, None, 0, 0)
    for i in range(spec["per_family"]):
        draw = random.Random(f"{family}/seed/{i}")
        drawn = ("difficulty", "num_words")
        variables = {name: draw.choice(spec[name]) for name in drawn}
        variables["query_form"] = forms[i // len(own) % len(forms)]
        variables["domain"] = own[i % len(own)]
        known = {"family": family, "domain": variables["domain"], "split": split}
        count = 3 * variables["num_words"]
        yield Planned(f"{family}/seed/{i:02d}", SEED, variables, i, known, count)


def mgh_requests(
    tasks: Iterable[Task], languages: Sequence[str] = ("English",)
) -> Iterator[Planned]:
    """Requests for graded examples; those of a task take turns in `languages`."""
    for task in tasks:
        for example in range(recording_plan()["mgh"]["examples_per_task"]):
            yield mgh_request(task, example, languages[example % len(languages)])


def mgh_request(task: Task, example: int, language: str = "English") -> Planned:
    """The request for one graded example of one task (Negative Matters, MGH)."""
    plan, group, place = recording_plan(), task.group, f"{task.index}/{example}"
    draw = random.Random(f"{task.family}/{group}/{place}")
    kind, spec = plan["groups"][group], dict(plan["mgh"])
    spec["num_words"] = spec["num_words"].get(group, spec["num_words"]["other"])
    # from every list, in the plan's order: each draw moves the generator
    drawn = {name: draw.choice(of) for name, of in spec.items() if isinstance(of, list)}
    variables = {"task": task.text, "language": language, **drawn}
    variables["group_definition"] = kind["definition"]
    for part in ("query", "document"):
        text = kind[f"{part}_spec"]
        variables[f"{part}_spec"] = text.format(**drawn)
        variables[f"{part}_words"] = drawn["num_words"] * ("{num_words}" in text)
    tasks, own = plan["tasks_per_group"][group], {"task": task.text, "task_id": task.id}
    own |= {"family": task.family, "group": group}
    own["split"] = split_of(task.family, task.index, tasks, example)
    count = variables["query_words"] + 5 * variables["document_words"]
    name = f"{task.family}/mgh/{group}/{place}"
    return Planned(name, MGH, variables, example, own, count)


def syneg_requests(
    items: Iterable[RetrievalItem], reflection: bool = True, attributes: bool = True
) -> Iterator[Planned]:
    """Requests for SyNeg negatives of items, beside their labelled positive.

    Each item is asked at the positive's own level ("syneg"); where the freely drawn
    level is another one, as the paper has it, also at that level ("syneg-free"). A
    prompt without attributes has no level, so there each is asked once.
    """
    spec = recording_plan()["syneg"]
    matched = spec["matched_level"]
    for item in items:
        number, positive = item.id.rsplit("/", 1)[1], item.positives[0]
        draw = random.Random(f"{item.family}/syneg/{int(number)}")
        free, length = draw.choice(spec["levels"]), draw.choice(spec["lengths"])
        kinds = [("syneg", "matched" if attributes else "none", matched)]
        if attributes and free != matched:
            kinds.append(("syneg-free", "free", free))
        example = {"user_query": item.query, "positive_document": positive}
        variables = {
            "domain_name": item.domain,
            "example": json.dumps(example, indent=1, ensure_ascii=False),
            "positive": positive,
            "num_negatives": spec["num_negatives"],
            "length": length,
        }
        given = {"item_id": item.id, "family": item.family, "split": item.split}
        count = spec["num_negatives"] * len(words(positive))
        for stage, attribute, level in kinds:
            filled = {**variables, "difficult_level": level}
            known = {**given, "attribute": attribute, "level": level}
            name = f"{item.family}/{stage}/{number}"
            prompt = SYNEG[reflection, attributes]
            yield Planned(name, prompt, filled, known=known, words=count)


def recorded(family: str) -> list[tuple[Planned, str]]:
    """Every planned request of a family with the text that a large model once said.

    LabError for an unknown family, and for a file that is missing or changed.
    """
    brainstormed, seeds = [*brainstorm_requests(family)], [*seed_requests(family)]
    path = RECORDINGS / f"answers/{family}.jsonl"
    verify(path)
    said = {
        row["id"]: json.dumps(row["response"], ensure_ascii=False)
        for row in read_jsonl(path)
    }
    tasks = [task for r in brainstormed for task in parse(r, said[r.id])]
    items = [parse(seed, said[seed.id]) for seed in seeds]
    made = *mgh_requests(tasks), *syneg_requests(items)
    return [(r, said[r.id]) for r in (*brainstormed, *seeds, *made)]


def recorded_answers(settings: Settings) -> dict[str, Answer]:
    """Key to recorded answer, the raw JSON text, of the settings' families.

    The recordings stand for the model "recorded" and the default decoding settings;
    under any others the same prompt is another request.
    """
    defaults, answers = Settings(), {}
    for family in settings.synthesis.families:
        for request, text in recorded(family):
            key = request.chat(defaults).key
            answers[key] = Answer(key, text, model="recorded", time="2026-11")
    return answers
