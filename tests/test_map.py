"""The house: what each room may import, how long a file is, and the README's map."""

import ast
import re

import pytest

from nbutils.core.settings import ROOT
from nbutils.pages.source import code_cells, load

PACKAGE = ROOT / "nbutils"
MAY_IMPORT = {
    "core": "",
    "llm": "core",
    "synthesis": "core llm",
    "encoder": "core",
    "mining": "core encoder",
    "training": "core encoder",
    "evaluation": "core encoder mining training",
    "plots": "core",
    "pages": "core",
}
"""What a room may import beside itself; the files at the top may import all."""
ROOMS = list(MAY_IMPORT)
PAGES = sorted((ROOT / "notebooks").glob("*.ipynb"))


def modules(source: str) -> set[str]:
    """The modules that a source imports anywhere in it, and names from nbutils."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = "nbutils" if node.level else node.module
            names = {a.name for a in node.names if not a.name.startswith("__")}
            found |= {f"nbutils.{x}" for x in names} if base == "nbutils" else {base}
    return found


def rooms_of(source: str) -> set[str]:
    """The rooms that a source imports, and files beside them."""
    parts = (name.split(".") for name in modules(source))
    return {within[0] for package, *within in parts if package == "nbutils" and within}


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import os, nbutils.a.b as c", {"a"}),
        ("import nbutils", set()),
        ("from nbutils import a, b", {"a", "b"}),
        ("def f():\n    from nbutils.a.b import c", {"a"}),
        ("from . import a", {"a"}),
        ("from numpy import a", set()),
        ("from nbutils import __version__", set()),
    ],
)
def test_every_form_of_import_is_seen(source, found):
    assert rooms_of(source) == found


def test_every_file_stands_in_a_room_is_short_and_every_room_on_the_readmes_map():
    assert sorted(ROOMS) == sorted(p.parent.name for p in PACKAGE.glob("*/__init__.py"))
    top = {path.stem for path in PACKAGE.glob("*.py")}
    doors = {"__init__", "__main__", "options", "asking", "checks", "claims"}
    assert top == doors | {"backbone", "pooling"}  # where older students look
    for folder in ("nbutils", "benchmarks", "workshop"):
        for path in (ROOT / folder).rglob("*.py"):
            count = len(path.read_text().splitlines())
            assert count <= 300, f"{path.relative_to(ROOT)} has {count} lines"
    text = (ROOT / "README.md").read_text().split("## The map")[1].split("\n## ")[0]
    rows = re.findall(r"^\| `([\w/.]+)`", text, re.MULTILINE)
    named = [row.strip("/").split("/")[-1] for row in rows]
    assert named == [*ROOMS, "benchmarks", "workshop", "tests"]


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_what_it_may(room):
    paths = list((PACKAGE / room).rglob("*.py"))
    assert len(paths) > 2
    for path in paths:
        source = path.read_text()
        assert "from . " not in source and "from .." not in source, path
        others = rooms_of(source) - {room, *MAY_IMPORT[room].split()}
        assert not others, f"{path.relative_to(ROOT)} imports {others}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_imports_rooms_and_takes_what_they_hand_out(page):
    code = "\n".join(cell.source for _, cell in code_cells(load(page)))
    for name in (n for n in modules(code) if n.split(".")[0] == "nbutils"):
        room, *within = name.removeprefix("nbutils.").split(".")
        assert room in ROOMS, name
        assert not within, f"{name}: import it from nbutils.{room}"
    plots = re.findall(r"from nbutils\.plots import (.*)", code)
    assert all(re.fullmatch(r"\w+ as plots", names) for names in plots), plots
    taken: set[tuple[str, str]] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and node.module.startswith("nbutils."):
            taken |= {(node.module.split(".")[1], alias.name) for alias in node.names}
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in ROOMS:
            taken |= {(ast.unparse(node.value), node.attr)}
    assert len(taken) > 5
    for room, name in taken - {("plots", name) for _, name in taken}:
        door = (PACKAGE / room / "__init__.py").read_text()
        assert re.search(rf"\b{name}\b", door), f"nbutils.{room} hands out no {name}"


def test_the_readmes_table_of_papers_points_at_files_and_sections():
    text = (ROOT / "README.md").read_text().split("## What came out")[0]
    rows = [line for line in text.splitlines() if line.startswith("| ")][1:]
    assert len(rows) >= 9
    for row in rows:
        *_, kept, shown, _ = row.split("|")
        for name in re.findall(r"`([\w/.]+)`", kept):
            assert (PACKAGE / name).exists() or (ROOT / name).exists(), name
        places = re.findall(r"(\d\d\w?), (\d+)", shown)
        assert places, row
        for page, section in places:
            (path,) = (ROOT / "notebooks").glob(f"{page}_*.ipynb")
            assert f'"## {section}. ' in path.read_text(), (page, section)
