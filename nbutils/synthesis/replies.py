"""From the text of an answer to a checked record, or a rejection with a named reason.

Pure and repeatable: nothing is asked, nothing is evaluated, and no text makes it fail.
JSON only; a code fence or prose around the JSON is let through.
"""

import json
import re
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import AfterValidator, BaseModel, Field, RootModel, ValidationError

from nbutils.core import records
from nbutils.core.text import has_spaces, normalise, words

if TYPE_CHECKING:
    from nbutils.synthesis.prompts import Planned

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

FORM = {"literal_error": "wrong_levels"} | dict.fromkeys(
    ("too_short", "too_long"), "wrong_count"
)
"""pydantic's name of a fault and the reason; all others are wrong keys."""

THOUGHT = r"<{0}(seed:)?(think|thinking|thought|reasoning)>|\[{0}THINK\]|◁{0}think▷"
BEGINS = re.compile(THOUGHT.format("") + r"|<\|channel\|>analysis", re.I)
ENDS = re.compile(THOUGHT.format("/") + r"|<\|channel\|>final<\|message\|>", re.I)
"""How models mark their thought. Some templates write its beginning themselves."""

SELF_TALK = re.compile(
    r"\b(hard[- ]negatives?|positive[_ ](example|document)|similarity[_ ]level"
    r"|user_query|(this|the above) query|as an ai|this document does not)\b",
    re.IGNORECASE,
)
MAX_WORDS = 1000  # of a text of no stated length


class Rejected(Exception):
    """Why an answer is not a record (reason, detail)."""


def parse(request: "Planned", text: str, finish: str = "") -> Any:
    """What an answer holds: a record, a list of records, or a Rejection.

    finish: why the server stopped; where that was in the middle, it is the reason.
    """
    kind = request.prompt.reply
    form = list if issubclass(kind, RootModel) else dict
    try:
        value = find_json(without_thought(text), form)
        return kind.model_validate(value).record(request)
    except ValidationError as error:
        first = error.errors()[0]
        reason = FORM.get(first["type"], "wrong_keys")
        detail = f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    except Rejected as fault:
        reason, detail = fault.args
        if reason == "not_json":
            reason = UNFINISHED.get(finish, reason)
    return records.Rejection(id=request.id, reason=reason, detail=detail)


def without_thought(text: str) -> str:
    """The answer itself: what follows the last thought, up to one that has no end."""
    after = max((end.end() for end in ENDS.finditer(text)), default=0)
    begun = BEGINS.search(text, after)
    return text[after : begun.start() if begun else None]


def find_json(text: str, kind: type) -> Any:
    """The first JSON value of `kind` (list or dict) in a text.

    Tries from each opening bracket on, at most 50. A list may be the only value of an
    object. Rejected where there is none or the value breaks off (not_json), and for
    half a character (bad_text).
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
    texts: Sequence[str], wanted: int = 0, given: Sequence[str] = ()
) -> None:
    """Refuse empty, self-referring, repeated or badly sized texts of the model.

    Of `wanted` words (0: none said) half to twice as many are let through, where words
    can be counted. Of the `given` texts none may be repeated; they are not checked.
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
        if plain in seen:
            raise Rejected("duplicate_text", _short(text))
        seen.add(plain)
        count = len(words(text))
        if not low <= count <= high and has_spaces(text):
            reason = "too_long" if count > high else "too_short"
            asked = f", asked for {wanted}" if wanted else ""
            raise Rejected(reason, f"{count} words{asked}: {_short(text)}")


def _short(text: str) -> str:
    flat = " ".join(text.split())
    return repr(flat if len(flat) <= 60 else flat[:59] + "…")


class Prompt(NamedTuple):
    """The name of a template, and the form of a reply to it.

    The form's `record(request)` makes a record (or a list), or raises `Rejected`.
    """

    template: str
    reply: type[BaseModel]


class Reply(BaseModel, extra="forbid", strict=True):
    """Its fields join what the plan knows in a record, `makes`, if its texts pass.

    A subclass has no docstring: it would be sent to servers, within the schema.
    """

    makes: ClassVar[type[records.Record]]

    def check(self, asked: Mapping[str, Any]) -> None:
        """Rejected for texts that are not as asked for, by a request's variables."""

    def record(self, request: "Planned") -> records.Record:
        self.check(request.variables)
        return self.makes(id=request.id, **request.known, **dict(self))


LEVEL_NAMES = ["high", "medium", "medium", "low"]
"""What a prompt calls N1 to N4."""


class GradedText(BaseModel, extra="forbid", strict=True):
    similarity_level: Literal["high", "medium", "low"]
    text: str


def _in_order(negatives: list[GradedText]) -> tuple[str, ...]:
    """The texts of N1 to N4; Rejected where the levels are not as they were asked."""
    levels = [negative.similarity_level for negative in negatives]
    if levels != LEVEL_NAMES:
        raise Rejected("wrong_levels", f"levels are {', '.join(levels)}")
    return tuple(negative.text for negative in negatives)


Line = Annotated[str, AfterValidator(str.strip)]
Pair = Annotated[list[str], Field(min_length=2, max_length=2), AfterValidator(tuple)]
Three = Annotated[list[str], Field(min_length=3, max_length=3), AfterValidator(tuple)]
Ladder = Annotated[
    list[GradedText], Field(min_length=4, max_length=4), AfterValidator(_in_order)
]


class TasksReply(RootModel[list[str]], strict=True):  # of one group in one family
    def record(self, request: "Planned") -> list[records.Task]:
        texts, wanted, made = self.root, request.variables["num_tasks"], []
        if len(texts) != wanted:
            raise Rejected("wrong_count", f"{len(texts)} tasks instead of {wanted}")
        for n, text in enumerate(texts):
            check_texts([text])  # one that repeats another is dropped alone, later
            split = records.split_of(request.known["family"], n, wanted, 0)
            own = {"index": n, "text": text.strip(), "split": split, **request.known}
            made.append(records.Task(id=f"{request.id}/{n}", **own))
        return made


class SeedReply(Reply):
    makes = records.RetrievalItem
    query: Line
    title: Line
    positives: Three

    def check(self, asked: Mapping[str, Any]) -> None:
        check_texts(self.positives, asked["num_words"])
        check_texts([self.query], given=self.positives)
        check_texts([self.title])


class MghReply(Reply):  # MGH's keys; a server writes them in this order
    makes = records.GradedExample
    query: Line
    positive: str = Field(alias="positive_example")
    negatives: Ladder = Field(alias="hard_negative_examples")

    def check(self, asked: Mapping[str, Any]) -> None:
        texts, wanted = [self.positive, *self.negatives], asked["document_words"]
        check_texts([self.query], asked["query_words"])
        check_texts(texts, wanted, given=[self.query])


class SynegPlainReply(Reply):
    makes = records.SynegExample
    negatives: Pair = Field(alias="hard_negatives")

    def check(self, asked: Mapping[str, Any]) -> None:
        positive = asked["positive"]
        wanted = len(words(positive)) if has_spaces(positive) else 0
        check_texts(self.negatives, wanted, given=[positive])


class SynegReply(Reply):  # the reasoning goes before what it leads to
    makes = records.SynegExample
    reasoning: str
    negatives: Pair = Field(alias="hard_negatives")

    def check(self, asked: Mapping[str, Any]) -> None:
        if not self.reasoning.strip():
            raise Rejected("empty_text", "the reasoning is empty")
        SynegPlainReply.check(self, asked)


BRAINSTORM = Prompt("brainstorm", TasksReply)
SEED = Prompt("seed", SeedReply)
MGH = Prompt("mgh", MghReply)
SYNEG = {
    (True, True): Prompt("syneg", SynegReply),
    (True, False): Prompt("syneg_no_attributes", SynegReply),
    (False, True): Prompt("syneg_no_reflection", SynegPlainReply),
    (False, False): Prompt("syneg_plain", SynegPlainReply),
}
"""SyNeg's prompt with or without its parts (reflection, attributes): its ablation."""
