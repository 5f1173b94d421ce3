"""The second generator's shipped answers, and what is made of them."""

from collections import Counter

import pytest

from nbutils.core.records import Verdict
from nbutils.synthesis import second


@pytest.fixture(scope="module")
def answers():
    return second.second_answers()


def counts_of(kinds, outcomes):
    return {kind: dict(Counter(own)) for kind, own in outcomes.groupby(kinds)}


def test_the_shipped_answers_parse_to_these_counts(answers):
    assert counts_of(answers["kind"], answers["outcome"]) == {
        "brainstorm": {"cut_off": 12, "not_json": 3},
        "mgh": {"cut_off": 8},
        "syneg": {"not_json": 6, "cut_off": 2},
        "judge": {"not_json": 37, "cut_off": 2, "accepted": 1},
        "level": {"cut_off": 13, "not_json": 6, "wrong_keys": 1},
    }
    read = answers[answers["loose"] != ""]
    assert counts_of(read["kind"], read["loose"]) == {
        "judge": {"accepted": 38, "cut_off": 2},
        "level": {"cut_off": 13, "accepted": 6, "wrong_keys": 1},
    }


def test_what_is_read_loosely_stands_beside_the_first_generators(answers):
    own = answers.dropna(subset="record").set_index("kind")
    assert all(isinstance(one, Verdict) for one in own.loc["judge", "record"])
    assert {*own.loc["judge", "first"]} == {True, False}
    verdicts = [one.answers for one in own.loc["judge", "record"]]
    assert Counter(verdicts) == {False: 33, True: 5}
    ids, texts = zip(*own.loc["level", "record"], strict=True)
    assert [*ids] == [*own.loc["level", "id"]] and all(map(str.strip, texts))
    assert all(own.loc["level", "query"]) and all(own.loc["level", "first"])
    assert not set(texts) & set(own.loc["level", "first"])


@pytest.mark.parametrize(
    ("text", "answers"),
    [
        ("The passage answers it. It is not short.", True),
        ("This is not an answer. Yes, it is.", False),
        ("Nothing noted speaks against it", True),
    ],
)
def test_a_verdict_in_prose_is_its_first_sentences(text, answers):
    assert second.LOOSE["judge"](text)["answers"] is answers


def test_every_request_has_its_answer_and_room_for_it(answers):
    settings, requests = second.second_settings(), second.second_requests()
    assert [r.id for kind in requests.values() for r in kind] == [*answers["id"]]
    assert settings.llm.temperature == 0 and settings.llm.reasks == 0
    assert max(answers["tokens"]) == settings.llm.max_tokens
    assert all(
        answers["outcome"][answers["tokens"] == settings.llm.max_tokens] == "cut_off"
    )
    assert all(r.words <= 250 for kind in requests.values() for r in kind)
