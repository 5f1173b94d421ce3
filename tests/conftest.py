"""What several test files share: small notebooks that need no model."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.update(HF_HUB_OFFLINE="1", TOKENIZERS_PARALLELISM="false")

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

PARAMETERS = 'profile: str = "workshop"\noverrides: dict = {}\nout: str = "runs"'
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def probe(
    *body: str, parameters: str = PARAMETERS, last: str | None = None, tag="parameters"
) -> nbformat.NotebookNode:
    """A sound notebook named `probe` whose middle cells are `body`."""
    tagged = new_code_cell(parameters, metadata={"tags": [tag] if tag else []})
    cells = [
        new_markdown_cell("# A probe"),
        new_code_cell("from nbutils import runner"),
        tagged,
        new_code_cell('run = runner.start("probe", profile, overrides, out)'),
        *(new_code_cell(source) for source in body),
        new_code_cell(last or 'run.finish({"answer": (42, "items")})'),
    ]
    return new_notebook(cells=cells, metadata={"kernelspec": KERNEL})


@pytest.fixture
def write_probe(tmp_path: Path) -> Callable[..., Path]:
    """Writes a probe notebook to a folder of its own; returns its path."""

    def write(*body: str, **changes: str) -> Path:
        path = tmp_path / "probe.ipynb"
        nbformat.write(probe(*body, **changes), path)
        return path

    return write
