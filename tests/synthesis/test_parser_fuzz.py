"""The parser under mutated real answers: a record or a named rejection, always.

    NBUTILS_FUZZ=50000 python -m pytest tests/synthesis/test_parser_fuzz.py

runs the long form; the suite's own is short.
"""

import os
import random

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from nbutils.core.records import Record, Rejection
from nbutils.synthesis import parsing, plan
from nbutils.synthesis.replies import Planned

CASES = int(os.environ.get("NBUTILS_FUZZ", "400"))
PIECES = ['"', "{", "}", "[", "]", "\\", ":", ",", "null", "```json\n", "```", "\x00",
          "\ud800", "é", "1e999", "NaN", "__import__('os').abort()", "\n", " " * 50,
          '{"a":' * 50, "[" * 3000, "𝕏" * 20, "<think>", "</think>"]  # fmt: skip


def corpus() -> list[tuple[Planned, str]]:
    """Some requests of every stage with their recorded answers."""
    found = {}
    for request, text in plan.recorded("health"):
        found.setdefault(request.prompt, []).append((request, text))
    return [pair for pairs in found.values() for pair in pairs[:8]]


CORPUS = corpus()
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


def check(request: Planned, text: str) -> str:
    """Parse twice; returns what came: a reason or `accepted`."""
    outcome = parsing.parse(request, text)
    assert outcome == parsing.parse(request, text), "not pure"
    if isinstance(outcome, Rejection):
        assert outcome.reason in parsing.REASONS
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
    check(request, mutated(text, seed, times))


@settings(max_examples=CASES // 4, deadline=None, database=None)
@given(place=PLACES, text=st.text(max_size=400))
def test_any_text_gives_a_named_rejection(place, text):
    assert check(CORPUS[place][0], text) != "accepted"


def test_the_unchanged_answers_are_accepted_and_many_mutations_are_not():
    assert {check(*pair) for pair in CORPUS} == {"accepted"}
    outcomes = {check(r, mutated(t, n, 2)) for n in range(40) for r, t in CORPUS[:10]}
    assert len(outcomes) >= 4, "the mutations reach few of the parser's reasons"
