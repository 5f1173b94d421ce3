"""From the text of an answer to a checked record, or a rejection with a named reason.

Pure and repeatable: nothing is asked, nothing is evaluated, and no text makes it fail.
JSON only; a code fence or prose around the JSON is let through.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from nbutils.core.records import (
    GradedExample,
    Record,
    Rejection,
    RetrievalItem,
    SynegExample,
    Task,
    split_of,
)
from nbutils.core.text import normalise, words
from nbutils.synthesis.plan import Planned, recording_plan
from nbutils.synthesis.replies import LEVEL_NAMES, REPLIES, MghReply, SeedReply

REASONS = {
    "not_json": "no JSON value of the kind asked for is in the answer",
    "wrong_keys": "keys are missing, unknown or hold another type",
    "wrong_levels": "the levels are not high, medium, medium, low",
    "wrong_count": "fewer or more texts than asked for",
    "empty_text": "a text is empty",
    "bad_text": "a text holds half a character",
    "duplicate_text": "two texts of the answer are the same",
    "too_long": "a text is more than twice as long as asked for",
    "too_short": "a text is less than half as long as asked for",
    "self_talk": "a text speaks of the request instead of standing on its own",
    "cut_off": "the answer reached the longest length allowed and breaks off",
    "filtered": "the server's content filter kept the answer back",
    "duplicate_task": "the task was brainstormed before",
    "duplicate_query": "the query was written before",
    "near_duplicate": "nearly the text of another record",
    "ladder": "the negatives do not stand in the order that was asked for",
}
"""Every reason for which an answer is rejected, in words."""

SELF_TALK = re.compile(
    r"\b(hard[- ]negatives?|positive[_ ](example|document)|similarity[_ ]level"
    r"|user_query|(this|the above) query|as an ai|this document does not)\b",
    re.IGNORECASE,
)
LENGTH_RANGE = (0.5, 2.0)
MAX_WORDS = 1000
"""A text of no stated length may have so many words at most."""

R = TypeVar("R", bound=Record)
Parser = Callable[[Planned, str], Any]
"""From a request and the text of its answer to a record, a list, or a Rejection."""


class Rejected(Exception):
    """Why an answer is not a record; becomes a `Rejection` at the border."""

    def __init__(self, reason: str, detail: str):
        super().__init__(reason, detail)
        self.reason, self.detail = reason, detail


def parse_brainstorm(request: Planned, text: str) -> list[Task] | Rejection:
    """The tasks of one group in one family, in the order of the answer."""
    return guarded(_brainstorm, request, text)


def parse_seed(request: Planned, text: str) -> RetrievalItem | Rejection:
    """A query with three independent positives."""
    return guarded(_seed, request, text)


def parse_mgh(request: Planned, text: str) -> GradedExample | Rejection:
    """A query, its positive and N1 to N4 (Negative Matters, MGH's answer keys)."""
    return guarded(_mgh, request, text)


def parse_syneg(request: Planned, text: str) -> SynegExample | Rejection:
    """Two hard negatives with the reasoning that led to them (SyNeg's format)."""
    return guarded(_syneg, request, text)


def find_json(text: str, kind: type) -> Any:
    """The first JSON value of `kind` (list or dict) in a text.

    Tries from each opening bracket on, at most 50. Raises Rejected (not_json) if there
    is none or the value breaks off, and (bad_text) for half a character.
    """
    opening = "[" if kind is list else "{"
    decoder = json.JSONDecoder()
    starts = [m.start() for m in re.finditer(re.escape(opening), text)][:50]
    for start in starts:
        try:
            value, _ = decoder.raw_decode(text, start)
        except (ValueError, RecursionError) as error:
            if _breaks_off(error, text):
                break  # what stands inside a truncated value is not the answer
            continue
        return _encodable(value)
    raise Rejected("not_json", f"no complete JSON {kind.__name__} in {_short(text)}")


def _breaks_off(error: Exception, text: str) -> bool:
    if not isinstance(error, json.JSONDecodeError):
        return False
    return error.msg.startswith("Unterminated") or error.pos >= len(text.rstrip())


def _encodable(value: Any) -> Any:
    try:
        json.dumps(value, ensure_ascii=False).encode()
    except (UnicodeEncodeError, RecursionError):
        raise Rejected("bad_text", "a text cannot be written as UTF-8") from None
    return value


def guarded(read: Callable[[Planned, str], R], request: Planned, text: str):
    """What `read` makes of an answer; a fault that it raises becomes a Rejection."""
    try:
        return read(request, text)
    except Rejected as fault:
        return Rejection(id=request.id, reason=fault.reason, detail=fault.detail)


def _brainstorm(request: Planned, text: str) -> list[Task]:
    wanted = request.variables["num_tasks"]
    tasks = find_json(text, list)
    if not all(isinstance(task, str) for task in tasks):
        raise Rejected("wrong_keys", "the list holds something other than strings")
    if len(tasks) != wanted:
        raise Rejected("wrong_count", f"{len(tasks)} tasks instead of {wanted}")
    check_texts(tasks, None, repeats=True)
    group = request.variables["group"]
    return [
        Task(
            id=f"{request.id}/{number}",
            family=request.family,
            group=group,
            index=number,
            text=task.strip(),
            split=split_of(request.family, number, wanted, 0),
        )
        for number, task in enumerate(tasks)
    ]


def _seed(request: Planned, text: str) -> RetrievalItem:
    reply = read_reply(SeedReply, text)
    check_texts(reply.positives, request.variables["num_words"])
    check_texts([reply.query, *reply.positives], None)
    check_texts([reply.title], None)
    return RetrievalItem(
        id=request.id,
        family=request.family,
        domain=request.variables["domain"],
        query=reply.query.strip(),
        title=reply.title.strip(),
        positives=tuple(reply.positives),
        split=split_of(request.family, None, 0, 0),
    )


def _mgh(request: Planned, text: str) -> GradedExample:
    reply = read_reply(MghReply, text)
    levels = [negative.similarity_level for negative in reply.hard_negative_examples]
    if levels != LEVEL_NAMES:
        raise Rejected("wrong_levels", f"levels are {', '.join(levels)}")
    negatives = [negative.text for negative in reply.hard_negative_examples]
    v = request.variables
    check_texts([reply.query], _words_asked_for(v["query_spec"]))
    check_texts(
        [reply.positive_example, *negatives], _words_asked_for(v["document_spec"])
    )
    check_texts([reply.query, reply.positive_example, *negatives], None)
    family, _, group, number, example = request.id.split("/")
    tasks = recording_plan()["tasks_per_group"].get(
        group, 0
    )  # bitext has no brainstormed ones
    return GradedExample(
        id=request.id,
        family=family,
        group=group,
        task_id=f"{family}/brainstorm/{group}/{number}",
        task=v["task"],
        query=reply.query.strip(),
        positive=reply.positive_example,
        negatives=tuple(negatives),
        split=split_of(family, int(number), tasks, int(example)),
    )


def _syneg(request: Planned, text: str) -> SynegExample:
    reply = read_reply(REPLIES[request.template], text)
    reasoning = getattr(reply, "reasoning", None)
    if reasoning is not None and not reasoning.strip():
        raise Rejected("empty_text", "the reasoning is empty")
    example = json.loads(request.variables["example"])
    positive = example["positive_document"]
    check_texts(reply.hard_negatives, len(words(positive)))
    check_texts([positive, *reply.hard_negatives], None)
    family, _, number = request.id.split("/")
    return SynegExample(
        id=request.id,
        item_id=f"{family}/seed/{number}",
        family=family,
        attribute=_attribute(request),
        level=request.variables["difficult_level"],
        reasoning=reasoning or "",
        negatives=tuple(reply.hard_negatives),
        split=split_of(family, None, 0, 0),
    )


def _attribute(request: Planned) -> str:
    if request.template in ("syneg_no_attributes", "syneg_plain"):
        return "none"
    return "free" if request.stage == "syneg-free" else "matched"


def read_reply(kind: type[BaseModel], text: str) -> Any:
    """The reply in an answer, checked; Rejected with the first fault's named reason."""
    value = find_json(text, dict)
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    reason = "wrong_keys"
    if first["type"] in ("too_short", "too_long"):
        reason = "wrong_count"
    elif where.endswith("similarity_level"):
        reason = "wrong_levels"
    raise Rejected(reason, f"{where}: {first['msg']}")


def check_texts(
    texts: Iterable[str], wanted: int | None, repeats: bool = False
) -> None:
    """Refuse empty, self-referring, repeated or badly sized texts.

    `wanted` is the number of words asked for, or None. `repeats` leaves repeated texts
    to the caller, who drops them one by one.
    """
    seen: set[str] = set()
    for text in texts:
        plain = normalise(text)
        if not plain:
            raise Rejected("empty_text", "a text has no words")
        if found := SELF_TALK.search(text):
            raise Rejected("self_talk", f"says {found.group()!r}: {_short(text)}")
        if plain in seen and not repeats:
            raise Rejected("duplicate_text", _short(text))
        seen.add(plain)
        count = len(words(text))
        low, high = (wanted * x for x in LENGTH_RANGE) if wanted else (0, MAX_WORDS)
        if not low <= count <= high:
            reason = "too_long" if count > high else "too_short"
            asked = f", asked for {wanted}" if wanted else ""
            raise Rejected(reason, f"{count} words{asked}: {_short(text)}")


def _words_asked_for(spec: str) -> int | None:
    found = re.search(r"about (\d+) words", spec)
    return int(found.group(1)) if found else None


def _short(text: str, limit: int = 60) -> str:
    flat = " ".join(text.split())
    return repr(flat if len(flat) <= limit else flat[: limit - 1] + "…")


PARSERS: dict[str, Parser] = {
    "brainstorm": parse_brainstorm,
    "seed": parse_seed,
    "mgh": parse_mgh,
    **dict.fromkeys((name for name in REPLIES if "syneg" in name), parse_syneg),
}
