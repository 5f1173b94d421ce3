"""From an answer to a record or a named rejection, always.

    NBUTILS_FUZZ=50000 python -m pytest tests/synthesis/test_replies.py

runs the long form; the suite's own is short.
"""

import json
import os
import random
from collections import defaultdict
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nbutils.core.records import GradedExample, Record, Rejection
from nbutils.core.settings import resolve
from nbutils.llm.store import Answer
from nbutils.synthesis import prompts, replies
from nbutils.synthesis.generate import reask

BY_TEMPLATE = defaultdict(list)
for pair in prompts.recorded("health"):
    BY_TEMPLATE[pair[0].prompt.template].append(pair)


def recorded(template):
    request, text = BY_TEMPLATE[template][0]
    return request, json.loads(text)


def with_negative(value, place, text, level="medium"):
    negatives = [*value[LADDER]]
    negatives[place] = {"similarity_level": level, "text": text}
    return value | {LADDER: negatives}


POSITIVE, LADDER = "positive_example", "hard_negative_examples"
GIVEN = recorded("syneg")[0].variables["positive"]
FAULTS = [
    ("mgh", "not_json", lambda v: None),
    ("mgh", "wrong_keys", lambda v: v | {"note": "x"}),
    ("mgh", "wrong_levels", lambda v: v | {LADDER: v[LADDER][::-1]}),
    ("mgh", "wrong_levels", lambda v: with_negative(v, 1, "x", "middle")),
    ("mgh", "wrong_count", lambda v: v | {LADDER: v[LADDER][:3]}),
    ("mgh", "empty_text", lambda v: with_negative(v, 2, " … ")),
    ("mgh", "duplicate_text", lambda v: with_negative(v, 1, v[POSITIVE].upper())),
    ("mgh", "too_long", lambda v: with_negative(v, 1, "many words " * 200)),
    ("mgh", "too_short", lambda v: with_negative(v, 1, "few words")),
    ("mgh", "self_talk", lambda v: with_negative(v, 1, f"This query {'is ' * 50}")),
    ("mgh", "bad_text", lambda v: v | {"query": v["query"] + "\ud800"}),
    ("brainstorm", "wrong_count", lambda v: v[1:]),
    ("brainstorm", "wrong_keys", lambda v: [1, *v[1:]]),
    ("brainstorm", "empty_text", lambda v: ["", *v[1:]]),
    ("brainstorm", "not_json", lambda v: {"tasks": "none"}),
    ("seed", "duplicate_text", lambda v: v | {"positives": [v["positives"][0]] * 3}),
    ("seed", "empty_text", lambda v: v | {"title": "…"}),
    ("syneg", "empty_text", lambda v: v | {"reasoning": "  "}),
    ("syneg", "duplicate_text", lambda v: v | {"hard_negatives": [GIVEN, "x"]}),
]


@pytest.mark.parametrize(("template", "reason", "change"), FAULTS)
def test_each_fault_has_its_reason(template, reason, change):
    request, value = recorded(template)
    outcome = replies.parse(request, json.dumps(change(value)))
    assert isinstance(outcome, Rejection)
    assert (outcome.id, outcome.reason) == (request.id, reason)
    assert reason in replies.REASONS and "\n" not in outcome.detail


@pytest.mark.parametrize(
    ("wrap", "taken"),
    [('{{"tasks": {}}}', True), ("So {{be}} it: {}", True), ('{{"a": 1}} {}', True),
     ('{{"domains": {}, "sentences": []}}', False), ('{{"domains": {}, "sen', False)],
)  # fmt: skip
def test_a_list_inside_an_object_of_other_things_is_no_answer(wrap, taken):
    request, value = recorded("brainstorm")
    outcome = replies.parse(request, wrap.format(json.dumps(value)))
    assert (getattr(outcome, "reason", "") == "not_json") is not taken
    assert not taken or len(outcome) == len(value)


WRAPS = [
    "{f}", "```json\n{f}\n```", "Here is {{the}}:\n{f}\nHope [so].", "\ufeff\n {f}",
    "<think>First {d}, too easy.</think>\n{f}", "First {d}.\n</think>\n{f}",
    "<think>a</think> so <think>form {{}}, {d}</think>{f}", "{f}\n<think>or {d}",
    "<THINKING>{d}</THINKING>{f}", "[THINK]{d}[/THINK]{f}", "◁think▷{d}◁/think▷{f}",
    "<|channel|>analysis<|message|>{d}<|end|><|channel|>final<|message|>{f}",
]  # fmt: skip


@pytest.mark.parametrize("wrap", WRAPS)
def test_fences_and_prose_are_let_through_and_a_thought_is_no_answer(wrap):
    request, value = recorded("mgh")
    final = json.dumps(value)
    draft = json.dumps(value | {"query": f"DRAFT {value['query']}"})
    outcome = replies.parse(request, wrap.format(d=draft, f=final))
    assert isinstance(outcome, GradedExample)
    assert outcome == replies.parse(request, final)
    begun = wrap.format(d=draft, f="").partition("</")[0]
    if begun.startswith("<"):  # cut off in the middle of a thought
        assert replies.parse(request, begun, "length").reason == "cut_off"


def test_an_answer_is_sent_back_without_its_thought():
    request, _ = recorded("mgh")
    fault = Rejection(id="x", reason="not_json", detail="")
    text = "<think>long</think>no JSON"
    again = reask(request.chat(resolve()), Answer("k", text), fault, 1)
    assert again.messages[1] == {"role": "assistant", "content": "no JSON"}


@pytest.mark.parametrize(
    ("sign", "spaced"),
    [("咖", False), ("コ", False), ("ก", False), ("က", False),
     ("हिन्दी ", True), ("한국 ", True), ("слово ", True)],
)  # fmt: skip
def test_lengths_are_checked_where_words_can_be_counted(sign, spaced):
    request, value = recorded("mgh")
    asked = {**request.variables, "query_words": 8, "document_words": 60}
    request = replace(request, variables=asked)

    def accepted(count):
        made = {**value, "query": f"Q {sign * 8}", "positive_example": f"P {sign * 60}"}
        made[LADDER] = [
            n | {"text": f"{i} {sign * count}"} for i, n in enumerate(value[LADDER])
        ]
        said = json.dumps(made, ensure_ascii=False)
        return isinstance(replies.parse(request, said), GradedExample)

    assert accepted(60) and accepted(150) == accepted(10) == (not spaced)


@pytest.mark.parametrize(
    "text", ["", "[" * 100_000, "{" * 100_000, '{"a":' * 50_000, "1" * 9000,
             '{"query": ' + "1" * 9000 + "}", "__import__('os').abort()", "null"]
)  # fmt: skip
def test_hostile_text_is_only_rejected(text):
    for template in ("brainstorm", "seed", "mgh", "syneg"):
        assert isinstance(replies.parse(recorded(template)[0], text), Rejection)


def test_a_cut_answer_is_not_json_wherever_it_is_cut():
    request, text = BY_TEMPLATE["mgh"][0]
    for cut in range(1, len(text), 37):
        assert replies.parse(request, text[:cut]).reason == "not_json"


# -- any text, and mutated real answers

CASES = int(os.environ.get("NBUTILS_FUZZ", "200"))
PIECES = ['"', "{", "}", "[", "]", "\\", ":", ",", "null", "```json\n", "```", "\x00",
          "\ud800", "é", "1e999", "NaN", "__import__('os').abort()", "\n", " " * 50,
          '{"a":' * 50, "[" * 3000, "𝕏" * 20, "<think>", "</think>"]  # fmt: skip
CORPUS = [pair for pairs in BY_TEMPLATE.values() for pair in pairs[:8]]
PLACES = st.integers(0, len(CORPUS) - 1)


def mutated(text: str, seed: int, times: int) -> str:
    """`times` seeded edits: cut, drop, repeat, put a piece in, wrap, or swap."""
    draw = random.Random(seed)
    for _ in range(times):
        at, to = sorted(draw.randrange(len(text) + 1) for _ in range(2))
        piece, other = draw.choice(PIECES), draw.choice(PIECES)
        text = draw.choice([
            text[:at], text[:at] + text[to:], text[:to] + text[at:to][:500] + text[to:],
            text[:at] + piece + text[at:], piece + text + other, text[to:] + text[:to],
        ])  # fmt: skip
    return text


def outcome_of(request, text: str) -> str:
    """Parse twice; returns what came: a reason or `accepted`."""
    outcome = replies.parse(request, text)
    assert outcome == replies.parse(request, text), "not pure"
    if isinstance(outcome, Rejection):
        assert outcome.reason in replies.REASONS
        return outcome.reason
    made = outcome if isinstance(outcome, list) else [outcome]
    assert made and all(isinstance(one, Record) for one in made)
    assert all(one.model_dump_json() for one in made)  # can be written
    return "accepted"


SLOW = [HealthCheck.too_slow]


@settings(max_examples=CASES, deadline=None, database=None, suppress_health_check=SLOW)
@given(place=PLACES, seed=st.integers(0, 2**32), times=st.integers(1, 6))
def test_a_mutated_answer_gives_a_record_or_a_named_rejection(place, seed, times):
    request, text = CORPUS[place]
    outcome_of(request, mutated(text, seed, times))


@settings(max_examples=CASES // 4, deadline=None, database=None)
@given(place=PLACES, text=st.text(max_size=400))
def test_any_text_gives_a_named_rejection(place, text):
    assert outcome_of(CORPUS[place][0], text) != "accepted"
