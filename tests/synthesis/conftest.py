"""A server that answers what a test says, and a client's settings for it."""

import faults
import pytest


@pytest.fixture
def answering(server):
    """Lets a test say what the server answers: a function of the prompt."""

    def set_to(function):
        class Answers(dict):
            def __missing__(self, prompt):
                return function(prompt)

        server.answers = Answers()
        return server

    return set_to


@pytest.fixture
def live(tmp_path):
    """Makes the settings of a patient client without asking again."""

    def made(**changes):
        chosen = {"families": ["health"], "llm_retries": 0, "llm_reasks": 0}
        return faults.settings_for(tmp_path / "s.sqlite", **(chosen | changes))

    return made
