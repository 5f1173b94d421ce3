"""A page cut down to a tag's cells: they run alone."""

from __future__ import annotations

import subprocess
import sys

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from nbutils.core.errors import LabError
from nbutils.core.settings import ROOT
from nbutils.pages.execute import PAGES, run_all
from nbutils.pages.path import cut, write_cut
from nbutils.pages.source import check_source, load


def page_of(*cells: tuple[str, str]):
    """A page of (tags, code) cells; a code of `# …` is a text."""
    made = []
    for tags, code in cells:
        cell = (new_markdown_cell if code.startswith("#") else new_code_cell)(code)
        cell.metadata["tags"] = tags.split()
        made.append(cell)
    return new_notebook(cells=made)


def test_cells_of_the_tag_stay_with_what_they_need():
    page = page_of(
        ("parameters", "profile = 1"), ("", "# A text"), ("short", "# Short"),
        ("short-needs", "x = 1"), ("", "y = 2"), ("short", "print(x)"),
        ("", "run.finish({'y': y})"),
    )  # fmt: skip
    kept = [cell.source for cell in cut(page, "short").cells]
    assert kept == ["profile = 1", "# Short", "x = 1", "print(x)", "run.finish({})"]
    assert len(page.cells) == 7, "the page itself stays"
    with pytest.raises(
        LabError, match="no cell is tagged 'shor'; did you mean 'short'"
    ):
        cut(page, "shor")


def test_each_page_has_a_short_path_that_takes_only_what_it_binds(tmp_path):
    for name in PAGES:
        path = ROOT / f"notebooks/{name}.ipynb"
        short = load(write_cut(path, "lab90", tmp_path))
        check_source(short, name)
        assert 8 < len(short.cells) < len(load(path).cells)
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821"]
    done = subprocess.run([*ruff, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_the_short_path_runs_alone_and_beside_the_whole_pages(tmp_path):
    (outcome,) = run_all(["01"], str(tmp_path), "smoke", tag="lab90", say=print)
    assert outcome.state == "done", outcome.error
    folder = tmp_path / "lab90"
    assert outcome.folder == folder / "smoke" / PAGES[0]
    whole, short = (
        load(ROOT / f"notebooks/{PAGES[0]}.ipynb"),
        load(folder / f"{PAGES[0]}.ipynb"),
    )
    assert len(short.cells) < len(whole.cells) and not short.cells[2].outputs
    assert (folder / "index.html").is_file() and outcome.metrics["figures"]
    with pytest.raises(LabError, match="--tag"):
        run_all(["01"], keep=True, tag="lab90")
    with pytest.raises(LabError, match="01b_costs_and_asking_again: no cell is tagged"):
        run_all(["01b"], str(tmp_path), "smoke", tag="lab90")
