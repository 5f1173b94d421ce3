"""A server that answers what a test says."""

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
