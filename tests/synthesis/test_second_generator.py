"""The second generator's shipped answers, and what is made of them."""

from collections import Counter

import pytest

from nbutils.core.records import Verdict
from nbutils.synthesis import second_generator


@pytest.fixture(scope="module")
def answers():
    return second_generator.second_answers()


def counts(answers, column):
    return {kind: dict(Counter(own[column])) for kind, own in answers.groupby("kind")}


def test_the_shipped_answers_parse_to_these_counts(answers):
    assert counts(answers, "outcome") == {
        "brainstorm": {"cut_off": 12, "not_json": 3},
        "mgh": {"cut_off": 8},
        "syneg": {"not_json": 6, "cut_off": 2},
        "judge": {"not_json": 37, "cut_off": 2, "accepted": 1},
        "level": {"cut_off": 13, "not_json": 6, "wrong_keys": 1},
    }
    assert counts(answers.query("loose != ''"), "loose") == {
        "judge": {"accepted": 38, "cut_off": 2},
        "level": {"cut_off": 13, "accepted": 6, "wrong_keys": 1},
    }


def test_what_is_read_loosely_stands_beside_the_first_generators(answers):
    own = answers.dropna(subset="record").set_index("kind")
    verdicts, levels = own.loc["judge"], own.loc["level"]
    assert all(isinstance(one, Verdict) for one in verdicts["record"])
    assert Counter(v.answers for v in verdicts["record"]) == {False: 33, True: 5}
    assert {*verdicts["first"]} == {True, False}
    ids, texts = zip(*levels["record"], strict=True)
    assert [*ids] == [*levels["id"]] and all(map(str.strip, texts))
    assert all(levels["query"]) and all(levels["first"])
    assert not {*texts} & {*levels["first"]}


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ("The passage answers it. It is not short.", True),
        ("This is not an answer. Yes, it is.", False),
        ("Nothing noted speaks against it", True),
    ],
)
def test_a_verdict_in_prose_is_its_first_sentences(text, answers):
    assert second_generator.LOOSE["judge"](text)["answers"] is answers


def test_every_answer_had_room_for_what_was_asked(answers):
    llm, requests = (
        second_generator.second_settings().llm,
        second_generator.second_requests(),
    )
    assert (llm.temperature, llm.reasks) == (0, 0)
    assert max(answers["tokens"]) == llm.max_tokens
    assert {*answers["outcome"][answers["tokens"] == llm.max_tokens]} == {"cut_off"}
    assert all(r.words <= 250 for kind in requests.values() for r in kind)
