"""The client under faults and kills, in small: tests/faults.py runs it in full."""

import faults
import pytest

from nbutils.core.errors import LabError
from nbutils.llm.client import Client


def test_a_killed_client_loses_nothing_and_asks_for_nothing_stored(tmp_path):
    report = faults.prove(120, rate=0.3, kills=2, seed=1, folder=tmp_path)
    assert report["stored"] == 120
    assert report["equal to the fault-free run"]
    assert report["asked again after being stored"] == 0
    most = 2 * faults.settings_for(tmp_path / "x").llm.in_flight
    assert report["delivered but not yet stored at a kill"] <= most
    assert report["attempts"] > report["answers delivered"] >= 120
    assert set(report["outcomes"]) > {"answered", "time-out", "empty choices"}


def client_of(folder, **changes):
    settings = faults.settings_for(folder / "s.sqlite").changed(**changes)
    return settings, Client(settings)


@pytest.mark.parametrize("fault", faults.FAULTS)
def test_each_fault_is_survived_by_the_sdks_own_retries(
    fault, server, tmp_path, monkeypatch
):
    seen = []

    def once(key):
        seen.append(key)
        return fault if len(seen) == 1 else "answered"

    monkeypatch.setattr(server, "fault_of", once)
    monkeypatch.setattr(faults, "LATE_S", 0.6)
    settings, client = client_of(tmp_path, llm_timeout_s=0.3)
    (request,) = faults.requests_of(1, settings)
    answer = client.complete(request)
    assert answer.text == server.answers[request.messages[0]["content"]]
    assert len(seen) == client.attempts == (1 if fault in faults.ANSWERED else 2)
    assert client.requested == len(client.store) == 1


def test_a_server_that_only_fails_is_given_up_and_what_arrived_stays(
    server, tmp_path, monkeypatch
):
    settings, client = client_of(
        tmp_path, llm_retries=0, llm_in_flight=1, llm_give_up=3
    )
    requests = faults.requests_of(30, settings)
    good = {r.key for r in requests[:5]}
    monkeypatch.setattr(
        server, "fault_of", lambda key: "answered" if key in good else "500"
    )
    with pytest.raises(LabError, match=r"[34] of 30 requests have no answer"):
        client.complete_many([*requests[:5], *requests])
    assert set(faults.texts_in(client.store)) == good
    assert client.attempts <= 5 + 3 + 1


def test_one_bad_request_does_not_keep_the_others_from_their_answers(
    server, tmp_path, monkeypatch
):
    settings, client = client_of(tmp_path, llm_retries=0)
    requests = faults.requests_of(12, settings)
    bad = requests[4].key
    monkeypatch.setattr(
        server, "fault_of", lambda key: "500" if key == bad else "answered"
    )
    with pytest.raises(LabError, match="1 of 12 requests have no answer"):
        client.complete_many(requests)
    assert len(client.store) == 11
