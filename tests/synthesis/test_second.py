"""The second generator's shipped answers, and what is made of them."""

import pytest

from nbutils.core.records import Rejection, Verdict
from nbutils.llm.client import Client
from nbutils.synthesis import second
from nbutils.synthesis.parsing import parse


@pytest.fixture(scope="module")
def answers():
    return second.second_answers()


def test_the_shipped_answers_parse_to_these_counts(answers):
    counts = answers.groupby("kind")["outcome"].value_counts()
    assert {k: own.droplevel(0).to_dict() for k, own in counts.groupby(level=0)} == {}
    loose = answers[answers["loose"] != ""].groupby("kind")["loose"].value_counts()
    assert {k: own.droplevel(0).to_dict() for k, own in loose.groupby(level=0)} == {}


def test_what_is_read_loosely_stands_beside_the_first_generators(answers):
    own = answers.dropna(subset="record").set_index("kind")
    assert all(isinstance(one, Verdict) for one in own.loc["judge", "record"])
    assert {*own.loc["judge", "first"]} == {True, False}
    ids, texts = zip(*own.loc["level", "record"], strict=True)
    assert [*ids] == [*own.loc["level", "id"]] and all(map(str.strip, texts))
    assert all(own.loc["level", "query"]) and all(own.loc["level", "first"])
    assert not set(texts) & set(own.loc["level", "first"])


def test_a_request_is_asked_as_it_was_and_read_by_the_usual_parser(answers, tmp_path):
    settings = second.second_settings().changed(llm_store=str(tmp_path / "s.sqlite"))
    for kind, requests in second.second_requests().items():
        rows = answers[answers["kind"] == kind]
        assert [r.id for r in requests] == [*rows["id"]]
        assert len({r.chat(settings).key for r in requests}) == len(requests)
        for request, row in zip(requests, rows.itertuples(), strict=True):
            found = parse(request, row.response)
            assert isinstance(found, Rejection) == (row.outcome != "accepted")
    assert not Client(settings).store.path.exists()
