"""A page cut down to a tag: what its cells need comes along, and nothing else."""

from __future__ import annotations

import builtins

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from nbutils.core.errors import LabError
from nbutils.core.settings import ROOT
from nbutils.pages.execute import PAGES, run_all
from nbutils.pages.path import cut, names_of
from nbutils.pages.source import check_source, load


@pytest.mark.parametrize(
    ("code", "takes", "binds", "changes"),
    [
        ("x = y + 1\nz = x", "y print", "x z", ""),
        ("import a.b, c as d\nfrom e import f", "", "a d f", ""),
        ("def f(p):\n    q = p\n    return q + outer", "outer", "f", ""),
        ("g = [i + n for i in rows]", "n rows", "g", ""),
        ("x += 1", "x", "", "x"),
        ("frame['a'] = 1\nrow.b.c = 2", "frame row", "", "frame row"),
        ("rows.append(1)\nrun.figure(2)", "rows run", "", "rows"),
        ("rows = []\nrows.append(1)", "", "rows", ""),
        ("with run.timed('x') as t:\n    v = w\n    u = v", "run w", "t v u", ""),
        ("for a, b in pairs:\n    c = a", "pairs", "a b c", ""),
        ("def f(x):\n    k = {}\n    k[1] = x\n    k.update(o)", "o", "f", ""),
        ("if t:\n    x = 1\n    y = 1\nelse:\n    x = 2", "t y", "x", "y"),
        ("try:\n    x = f()\nexcept E:\n    x = 0", "f", "x", ""),
    ],
)
def test_what_a_cell_takes_binds_and_changes(code, takes, binds, changes):
    found = names_of(code)
    assert found[0] | {"print"} == {*takes.split(), "print"}
    assert (found[1], found[2]) == ({*binds.split()}, {*changes.split()})


def page_of(*cells: tuple[str, str]):
    """A page of (tags, code) cells; a code of `# …` is a text."""
    made = []
    for tags, code in cells:
        cell = (new_markdown_cell if code.startswith("#") else new_code_cell)(code)
        cell.metadata["tags"] = tags.split()
        made.append(cell)
    return new_notebook(cells=made)


def test_cells_of_the_tag_bring_what_they_take_and_no_more():
    page = page_of(
        ("parameters", "profile = 1"), ("", "# A text"), ("short", "# Short"),
        ("", "x = 1"), ("", "x = 2"), ("", "x += 1"), ("", "y = x"), ("", "z = 9"),
        ("short", "print(x)"), ("", "x = 4"), ("", "run.finish({'z': z})"),
    )  # fmt: skip
    kept = [cell.source for cell in cut(page, "short").cells]
    assert kept == [
        "profile = 1", "# Short", "x = 2", "x += 1", "print(x)", "run.finish({})",
    ]  # fmt: skip
    assert len(page.cells) == 11, "the page itself stays"
    with pytest.raises(
        LabError, match="no cell is tagged 'shor'; did you mean 'short'"
    ):
        cut(page, "shor")


@pytest.mark.parametrize("name", PAGES)
def test_each_page_has_a_short_path_that_takes_only_what_it_binds(name):
    page = load(ROOT / f"notebooks/{name}.ipynb")
    short = cut(page, "lab90")
    check_source(short, name)
    assert 8 < len(short.cells) < len(page.cells)
    known = set(dir(builtins))
    for cell in short.cells:
        if cell.cell_type == "code":
            takes, binds, changes = names_of(cell.source)
            assert takes <= known, (cell.source, takes - known)
            known |= binds | changes


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
