"""Brainstorm, MGH and SyNeg, each as request → answer → checked record.

Stage 1 brainstorms tasks; stage 2 writes one graded example a call (Negative Matters,
after E5-mistral's two-step prompt). SyNeg adds negatives to a query and its positive.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

from nbutils.core.errors import LabError
from nbutils.core.files import write_jsonl, write_sums
from nbutils.core.records import (
    KINDS,
    RECORDS,
    Records,
    Rejection,
    RetrievalItem,
    Task,
    spread,
)
from nbutils.core.settings import Settings, resolve
from nbutils.llm.client import Client
from nbutils.llm.store import Answer, ChatRequest
from nbutils.synthesis import prompts
from nbutils.synthesis.overlap import near_duplicates, repeats
from nbutils.synthesis.prompts import Planned
from nbutils.synthesis.replies import REASONS, parse, without_thought

Made = tuple[list, list[Rejection]]
"""The records, and what was rejected for good."""
Watch = Callable[[str, Any], None] | None
"""Is shown the stage and each outcome as it arrives: a record, a list, a Rejection."""


def open_client(settings: Settings) -> Client:
    """The client over the recorded answers of the settings' families, verified."""
    return Client(settings, prompts.recorded_answers(settings))


def fulfil(requests: Sequence[Planned], client: Client, watch: Watch = None) -> Made:
    """Ask, parse, and ask again: (accepted, rejected), in the order of the requests.

    A rejected answer is asked for again at most `llm_reasks` times, by a request that
    holds the failed answer and its fault: so a run that was broken off goes on where
    it stood, and replay takes the same way. The last outcome counts. LabError, before
    anything is asked, where no answer can reach half the words asked for.
    """
    settings, words = client.settings, (request.words for request in requests)
    least = max(words, default=0) / 2
    if client.live and least > settings.llm.max_tokens:
        raise LabError(
            f"an answer that is let through has {least:.0f} words or more, and "
            f"llm_max_tokens is {settings.llm.max_tokens}: raise it"
        )
    outcomes: dict[int, Any] = {}
    asked = {place: request.chat(settings) for place, request in enumerate(requests)}
    for number in range(1, settings.llm.reasks + 2):
        place_of = {chat.key: place for place, chat in reversed(asked.items())}

        def arrived(chat, answer, place_of=place_of):
            request = requests[place_of[chat.key]]
            watch(request.stage, parse(request, answer.text, answer.finish))

        answers = client.complete_many(asked.values(), watch and arrived)
        again = {}
        for (place, chat), answer in zip(asked.items(), answers, strict=True):
            made = parse(requests[place], answer.text, answer.finish)
            outcomes[place] = made
            if isinstance(made, Rejection):
                # what does not count as answered is asked as it was
                told = client.find(chat) is not None
                then = reask(chat, answer, made, number) if told else chat
                if client.live or client.find(then):
                    again[place] = then
        asked = again
    rejected = [made for made in outcomes.values() if isinstance(made, Rejection)]
    return [m for m in outcomes.values() if not isinstance(m, Rejection)], rejected


def reask(
    chat: ChatRequest, answer: Answer, fault: Rejection, number: int
) -> ChatRequest:
    """The request that tells the model what was wrong with its answer."""
    why = {"reason": REASONS[fault.reason], "detail": fault.detail}
    turns = [{"role": "user", "content": prompts.templates()["reask"].format(**why)}]
    if (text := without_thought(answer.text)).strip():
        turns.insert(0, {"role": "assistant", "content": text})
    name = f"{chat.id.split('#')[0]}#{number}"
    return replace(chat, id=name, messages=(*chat.messages, *turns))


def without(made: Made, field: str, find: Callable, reason: str) -> Made:
    """Rejects also the records whose text in `field` repeats another's (`overlap`)."""
    records, rejections = made
    first = find([getattr(record, field) for record in records])
    pairs = list(zip(records, first, strict=True))
    gone = [
        Rejection(id=record.id, reason=reason, detail=f"repeats {records[n].id}")
        for record, n in pairs
        if n >= 0
    ]
    return [record for record, n in pairs if n < 0], rejections + gone


def brainstorm(client: Client, watch: Watch = None) -> Made:
    """The tasks of every family, without repeats. Always all: examples need them."""
    families = client.settings.synthesis.families
    requests = [r for f in families for r in prompts.brainstorm_requests(f)]
    answered, rejections = fulfil(requests, client, watch)
    tasks = [task for group in answered for task in group]
    return without((tasks, rejections), "text", repeats, "duplicate_task")


def graded_examples(tasks: Sequence[Task], client: Client, watch: Watch = None) -> Made:
    """Graded examples of the given tasks, six a task, `max_items` a family."""
    chosen, requests = client.settings.synthesis, []
    for family in dict.fromkeys(task.family for task in tasks):
        own = [task for task in tasks if task.family == family]
        requests += spread(
            list(prompts.mgh_requests(own, chosen.languages)),
            chosen.max_items,
            lambda r: (r.known["group"], r.known["split"]),
        )
    made = fulfil(requests, client, watch)
    made = without(made, "query", repeats, "duplicate_query")
    near = partial(near_duplicates, least=chosen.near_duplicate)
    return without(made, "query", near, "near_duplicate")


def retrieval_items(client: Client, watch: Watch = None) -> Made:
    """Queries with three independent positives each, `max_items` a family."""
    chosen, requests = client.settings.synthesis, []
    for family in chosen.families:
        requests += islice(prompts.seed_requests(family), chosen.max_items or None)
    made = fulfil(requests, client, watch)
    return without(made, "query", repeats, "duplicate_query")


def syneg_examples(
    items: Iterable[RetrievalItem],
    client: Client,
    watch: Watch = None,
    stages: Sequence[str] = ("syneg", "syneg-free"),
) -> Made:
    """SyNeg negatives of the given items: attribute matched, then freely drawn."""
    chosen = client.settings.synthesis
    parts = chosen.syneg_reflection, chosen.syneg_attributes
    planned = prompts.syneg_requests(items, *parts)
    requests = [request for request in planned if request.stage in stages]
    return fulfil(requests, client, watch)


def load(settings: Settings) -> Records:
    """All records of the settings' families (shipped: `core.read_records`)."""
    client = open_client(settings)
    tasks, refused = brainstorm(client)
    graded, more = graded_examples(tasks, client)
    items, others = retrieval_items(client)
    syneg, last = syneg_examples(items, client)
    return Records(tasks, graded, items, syneg, refused + more + others + last)


def write_shipped(folder: Path = RECORDS) -> None:
    """Write the records of all recorded answers as files, with their sums."""
    records = load(resolve())
    for kind in KINDS:
        write_jsonl(folder / f"{kind}.jsonl", getattr(records, kind))
    write_sums(folder)


def counts(records: Records) -> Mapping[str, int]:
    """How many of each kind there are."""
    attributes = Counter(example.attribute for example in records.syneg)
    return {
        "tasks": len(records.tasks),
        "graded": len(records.graded),
        "items": len(records.items),
        "syneg_matched": attributes["matched"],
        "syneg_free": attributes["free"],
        "rejections": len(records.rejections),
    }
