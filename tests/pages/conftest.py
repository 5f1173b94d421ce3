"""The committed pages, one after the other."""

import pytest

from nbutils.core.settings import ROOT
from nbutils.pages.source import load, yours


@pytest.fixture(
    params=sorted((ROOT / "notebooks").glob("*.ipynb")),
    scope="module",
    ids=lambda path: path.stem,
)
def path(request):
    """A committed page, unless somebody works on it."""
    if remark := yours(request.param):
        pytest.skip(remark)
    return request.param


@pytest.fixture(scope="module")
def page(path):
    return load(path)
