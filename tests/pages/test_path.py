"""A page cut down to a tag's cells: they run alone."""

import subprocess
import sys

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from nbutils.core.errors import LabError
from nbutils.core.files import read_json
from nbutils.core.settings import ROOT
from nbutils.pages.execute import PAGES, find
from nbutils.pages.source import code_cells, cut, load, sound, tags, write_cut


def page_of(*cells: tuple[str, str]):
    """A page of (words of tags, code) cells; a code of `# …` is a text."""
    made = []
    for words, code in cells:
        cell = (new_markdown_cell if code.startswith("#") else new_code_cell)(code)
        cell.metadata["tags"] = words.split()
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
        short = sound(write_cut(path, "lab90", tmp_path))
        assert 8 < len(short.cells) < len(load(path).cells)
    ruff = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F821"]
    done = subprocess.run([*ruff, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_short_path_runs_without_the_cells_that_it_leaves_out(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # and back again: a page goes to the root
    names = {}
    for _, cell in code_cells(load(write_cut(find("01"), "lab90", tmp_path))):
        exec(cell.source, names)
        if "parameters" in tags(cell):
            names |= {"profile": "smoke", "out": str(tmp_path)}
    made = read_json(tmp_path / "smoke" / PAGES[0] / "metrics.json")
    assert made["figures"]
