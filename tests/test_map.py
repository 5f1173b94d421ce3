"""The README's map of modules is complete, in order, and true."""

import ast
import re

from nbutils.core.settings import ROOT


def rows() -> list[list[str]]:
    text = (ROOT / "README.md").read_text().split("## The map")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return [re.findall(r"`(\w+)`", cell) for cell in cells]


def imports(name: str) -> set[str]:
    tree = ast.parse((ROOT / "nbutils" / f"{name}.py").read_text())
    found = set()
    for node in ast.walk(tree):
        found |= imported(node)
    return found


def imported(node: ast.AST) -> set[str]:
    """The modules of the package that a statement imports, however it is written."""
    if isinstance(node, ast.Import):
        names = [alias.name.split(".") for alias in node.names]
        return {parts[1] for parts in names if parts[0] == "nbutils" and parts[1:]}
    if not isinstance(node, ast.ImportFrom):
        return set()
    whole = (node.module or "").split(".")
    if node.level:
        whole = ["nbutils", *filter(None, whole)]
    if whole[0] != "nbutils":
        return set()
    if whole[1:]:
        return {whole[1]}
    return {a.name for a in node.names if not a.name.startswith("__")}


def test_every_form_of_import_is_seen():
    forms = {
        "import nbutils.a": {"a"},
        "import os, nbutils.a.b as c": {"a"},
        "import nbutils": set(),
        "from nbutils import a, b": {"a", "b"},
        "from nbutils.a import b": {"a"},
        "from . import a": {"a"},
        "from .a import b": {"a"},
        "from nbutils import __version__": set(),
        "from numpy import a": set(),
    }
    for source, found in forms.items():
        assert imported(ast.parse(source).body[0]) == found, source


def test_every_module_stands_in_the_map_once():
    named = [name for row in rows() for name in row]
    there = {p.stem for p in (ROOT / "nbutils").rglob("*.py")} - {"__init__"}
    assert sorted(named) == sorted(there)


def test_modules_import_only_what_stands_above_them():
    above: set[str] = set()
    for row in rows():
        above |= set(row)
        for name in row:
            below = imports(name) - above
            assert not below, f"{name} imports {below}, which stand below it"
