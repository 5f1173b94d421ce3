"""A tiny student in float32, for tests that change nothing in it."""

import pytest

from nbutils.core.settings import resolve
from nbutils.encoder import build_student


@pytest.fixture(scope="session")
def settings():
    return resolve("smoke", {"device": "cpu", "compute_dtype": "float32"})


@pytest.fixture(scope="session")
def student(settings):
    return build_student(settings)
