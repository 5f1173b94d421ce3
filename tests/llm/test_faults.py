"""The client under every kind of fault, refused parameters, streams and kills."""

import faults
import pytest

from nbutils.core.errors import LabError
from nbutils.llm.client import Client


def test_a_killed_client_loses_nothing_pays_once_and_takes_no_other_text(tmp_path):
    report = faults.prove(60, rate=0.35, kills=1, streams=1, folder=tmp_path)
    assert report["stored"] == 60 and report["wrong"] == []
    assert report["asked again after being stored"] == 0
    most = faults.settings_for(tmp_path / "x").llm.in_flight
    assert report["delivered but not yet stored at a kill"] <= most
    assert set(report["outcomes"]) > {"answered", "thought", "parts", faults.STREAM}


def client_of(folder, **changes):
    settings = faults.settings_for(folder / "s.sqlite", **changes)
    return Client(settings), faults.requests_of(30, settings)


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
    client, (request, *_) = client_of(tmp_path, llm_timeout_s=0.3)
    text = client.complete(request).text
    right = server.answers[request.messages[0]["content"]]
    assert text.endswith(right) and (text == right or fault == "thought")
    assert len(seen) == client.attempts == (1 if fault in faults.ANSWERED else 2)
    assert client.requested == len(client.store) == 1


@pytest.mark.parametrize(
    ("count", "good", "said", "changes"),
    [(30, 5, r"[34] of 30 ", {"llm_give_up": 3, "llm_in_flight": 1}),
     (12, 11, "1 of 12 ", {})],
)  # fmt: skip
def test_what_arrives_stays_and_a_server_that_only_fails_is_given_up(
    count, good, said, changes, server, tmp_path, monkeypatch
):
    client, requests = client_of(tmp_path, llm_retries=0, **changes)
    fine = {r.key for r in requests[:good]}

    def fault_of(key):
        return "answered" if key in fine else "500"

    monkeypatch.setattr(server, "fault_of", fault_of)
    with pytest.raises(LabError, match=f"{said}requests have no answer"):
        client.complete_many(requests[:count])
    assert set(faults.texts_in(client.store)) == fine
    assert client.attempts <= good + 3 + 1
