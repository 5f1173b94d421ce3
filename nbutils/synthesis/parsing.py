"""From the text of an answer to a checked record, or a rejection with a named reason.

Pure and repeatable: nothing is asked, nothing is evaluated, and no text makes it fail.
JSON only; a code fence or prose around the JSON is let through.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from itertools import islice
from typing import Any

from pydantic import BaseModel, RootModel, ValidationError

from nbutils.core.records import (
    GradedExample,
    Rejection,
    RetrievalItem,
    SynegExample,
    Task,
    split_of,
)
from nbutils.core.text import has_spaces, normalise, words
from nbutils.synthesis import replies
from nbutils.synthesis.replies import Planned, Prompt

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
    "refused": "the model declined to answer",
    "filtered": "the server's content filter kept the answer back",
    "duplicate_task": "the task was brainstormed before",
    "duplicate_query": "the query was written before",
    "near_duplicate": "nearly the text of another record",
    "ladder": "the negatives do not stand in the order that was asked for",
}
"""Every reason for which an answer is rejected, in words."""

UNFINISHED = {"length": "cut_off", "content_filter": "filtered", "refusal": "refused"}
"""Why a server stopped in the middle of an answer, and the reason it is refused for."""

THOUGHT = r"<{0}(seed:)?(think|thinking|thought|reasoning)>|\[{0}THINK\]|◁{0}think▷"
THOUGHT_BEGINS = re.compile(THOUGHT.format("") + r"|<\|channel\|>analysis", re.I)
THOUGHT_ENDS = re.compile(
    THOUGHT.format("/") + r"|<\|channel\|>final<\|message\|>", re.I
)
"""How models mark their thought. Some templates write its beginning themselves."""

SELF_TALK = re.compile(
    r"\b(hard[- ]negatives?|positive[_ ](example|document)|similarity[_ ]level"
    r"|user_query|(this|the above) query|as an ai|this document does not)\b",
    re.IGNORECASE,
)
MAX_WORDS = 1000
"""A text of no stated length may have so many words at most."""


class Rejected(Exception):
    """Why an answer is not a record (reason, detail)."""


def parse(request: Planned, text: str, finish: str = "") -> Any:
    """What an answer holds: a record, a list of records, or a Rejection.

    finish: why the server stopped; where that was in the middle, it is the reason.
    """
    prompt = request.prompt
    try:
        return prompt.read(request, read_reply(prompt.reply, without_thought(text)))
    except Rejected as fault:
        reason, detail = fault.args
    if reason == "not_json":
        reason = UNFINISHED.get(finish, reason)
    return Rejection(id=request.id, reason=reason, detail=detail)


def without_thought(text: str) -> str:
    """The answer itself: what follows the last thought, up to one that has no end."""
    after = max((end.end() for end in THOUGHT_ENDS.finditer(text)), default=0)
    begun = THOUGHT_BEGINS.search(text, after)
    return text[after : begun.start() if begun else None]


def read_reply(kind: type[BaseModel], text: str) -> Any:
    """The reply in an answer, checked; Rejected with the first fault's named reason."""
    value = find_json(text, list if issubclass(kind, RootModel) else dict)
    try:
        return kind.model_validate(value)
    except ValidationError as error:
        first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    reason = "wrong_levels" if where.endswith("similarity_level") else "wrong_keys"
    if first["type"] in ("too_short", "too_long"):
        reason = "wrong_count"
    raise Rejected(reason, f"{where}: {first['msg']}")


def find_json(text: str, kind: type) -> Any:
    """The first JSON value of `kind` (list or dict) in a text.

    Tries from each opening bracket on, at most 50. A list may be the only value of an
    object; one beside other values is not what was asked for. Rejected where there is
    none or the value breaks off (not_json), and for half a character (bad_text).
    """
    opening, end = r"[\[{]" if kind is list else r"\{", 0
    for match in islice(re.finditer(opening, text), 50):
        if match.start() < end:
            continue  # inside an object that is read
        try:
            value, end = json.JSONDecoder().raw_decode(text, match.start())
            json.dumps(value, ensure_ascii=False).encode()
            if kind is list and isinstance(value, dict) and len(value) == 1:
                (value,) = value.values()
            if isinstance(value, kind):
                return value
        except UnicodeEncodeError:
            raise Rejected("bad_text", "a text cannot be written as UTF-8") from None
        except json.JSONDecodeError as error:
            ended = error.pos >= len(text.rstrip())
            if ended or error.msg.startswith("Unterminated"):
                break  # what stands inside a truncated value is not the answer
        except (ValueError, RecursionError):
            continue  # too deep, or a number of thousands of digits
    raise Rejected("not_json", f"no complete JSON {kind.__name__} in {_short(text)}")


def check_texts(
    texts: Sequence[str],
    wanted: int = 0,
    repeats: bool = False,
    given: Sequence[str] = (),
) -> None:
    """Refuse empty, self-referring, repeated or badly sized texts of the model.

    `wanted` is the number of words asked for (0: none said): half to twice as many are
    let through, where words can be counted. `repeats` leaves repeated texts to the
    caller. Of the `given` texts none may be repeated; nothing else is asked of them.
    """
    seen = set(map(normalise, given))
    most = max([MAX_WORDS, *(2 * len(words(text)) for text in given)])
    low, high = (wanted / 2, wanted * 2) if wanted else (0, most)
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
        if not low <= count <= high and has_spaces(text):
            reason = "too_long" if count > high else "too_short"
            asked = f", asked for {wanted}" if wanted else ""
            raise Rejected(reason, f"{count} words{asked}: {_short(text)}")


def ladder_texts(reply: replies.LadderReply) -> tuple[str, ...]:
    """The texts of N1 to N4; Rejected where the levels are not as they were asked."""
    negatives = reply.hard_negative_examples
    levels = [negative.similarity_level for negative in negatives]
    if levels != replies.LEVEL_NAMES:
        raise Rejected("wrong_levels", f"levels are {', '.join(levels)}")
    return tuple(negative.text for negative in negatives)


def _short(text: str, limit: int = 60) -> str:
    flat = " ".join(text.split())
    return repr(flat if len(flat) <= limit else flat[: limit - 1] + "…")


# -- one reader a record: what the answer says joins what the plan knows


def _tasks(request: Planned, reply: replies.TasksReply) -> list[Task]:
    """The tasks of one group in one family, in the order of the answer."""
    texts, wanted = reply.root, request.variables["num_tasks"]
    if len(texts) != wanted:
        raise Rejected("wrong_count", f"{len(texts)} tasks instead of {wanted}")
    check_texts(texts, repeats=True)
    own, tasks = request.known, []
    for index, text in enumerate(texts):
        split, name = split_of(own["family"], index, wanted, 0), f"{request.id}/{index}"
        tasks.append(Task(id=name, index=index, text=text.strip(), split=split, **own))
    return tasks


def _item(request: Planned, reply: replies.SeedReply) -> RetrievalItem:
    """A query with three independent positives."""
    check_texts(reply.positives, request.variables["num_words"])
    check_texts([reply.query], given=reply.positives)
    check_texts([reply.title])
    query, title = reply.query.strip(), reply.title.strip()
    made = {"query": query, "title": title, "positives": tuple(reply.positives)}
    return RetrievalItem(id=request.id, **request.known, **made)


def _graded(request: Planned, reply: replies.MghReply) -> GradedExample:
    """A query, its positive and N1 to N4 (Negative Matters, MGH's answer keys)."""
    negatives, positive = ladder_texts(reply), reply.positive_example
    check_texts([reply.query], request.variables["query_words"])
    wanted = request.variables["document_words"]
    check_texts([positive, *negatives], wanted, given=[reply.query])
    made = {"query": reply.query.strip(), "positive": positive, "negatives": negatives}
    return GradedExample(id=request.id, **request.known, **made)


def _syneg(request: Planned, reply: replies.SynegPlainReply) -> SynegExample:
    """Two hard negatives with the reasoning that led to them (SyNeg's format)."""
    reasoning = getattr(reply, "reasoning", "")
    if hasattr(reply, "reasoning") and not reasoning.strip():
        raise Rejected("empty_text", "the reasoning is empty")
    positive = request.variables["positive"]
    wanted = len(words(positive)) if has_spaces(positive) else 0
    check_texts(reply.hard_negatives, wanted, given=[positive])
    made = {"reasoning": reasoning, "negatives": tuple(reply.hard_negatives)}
    return SynegExample(id=request.id, **request.known, **made)


BRAINSTORM = Prompt("brainstorm", replies.TasksReply, _tasks)
SEED = Prompt("seed", replies.SeedReply, _item)
MGH = Prompt("mgh", replies.MghReply, _graded)
SYNEG = {
    (True, True): Prompt("syneg", replies.SynegReply, _syneg),
    (True, False): Prompt("syneg_no_attributes", replies.SynegReply, _syneg),
    (False, True): Prompt("syneg_no_reflection", replies.SynegPlainReply, _syneg),
    (False, False): Prompt("syneg_plain", replies.SynegPlainReply, _syneg),
}
"""SyNeg's prompt with or without its parts (reflection, attributes): its ablation."""
