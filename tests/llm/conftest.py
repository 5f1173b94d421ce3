"""Clients of the loopback server, with requests of the recordings."""

import json

import faults
import pytest

from nbutils.llm.client import Client


@pytest.fixture
def client_of(live):
    """Opens a client that asks one by one: (client, 24 requests)."""

    def opened(**changes):
        settings = live(**({"llm_in_flight": 1} | changes))
        return Client(settings), faults.requests_of(24, settings)

    return opened


@pytest.fixture
def served(server, monkeypatch):
    """Lets `function` of a request's body give (status, error or bytes), or None."""

    def set_to(function):
        usual = faults._Handler._reply

        def reply(self, fault, body):
            if not (given := function(body)):
                return usual(self, fault, body)
            status, said = given
            if isinstance(said, dict):
                said = json.dumps({"error": said}).encode()
            return status, "text/plain", said

        monkeypatch.setattr(faults._Handler, "_reply", reply)

    return set_to
