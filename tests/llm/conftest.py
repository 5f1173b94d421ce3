"""Clients of the loopback server, with requests of the recordings."""

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
