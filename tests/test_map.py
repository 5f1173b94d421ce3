"""The README's map of modules is complete, in order, and true."""

import ast
import re

from nbutils.settings import ROOT


def rows() -> list[list[str]]:
    text = (ROOT / "README.md").read_text().split("## The map")[1].split("\n## ")[0]
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| `")]
    return [re.findall(r"`(\w+)`", cell) for cell in cells]


def imports(name: str) -> set[str]:
    tree = ast.parse((ROOT / "nbutils" / f"{name}.py").read_text())
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "nbutils":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "")[:8] == "nbutils.":
            found.add(node.module.split(".")[1])
    return found


def test_every_module_stands_in_the_map_once():
    named = [name for row in rows() for name in row]
    there = {p.stem for p in (ROOT / "nbutils").glob("*.py")} - {"__init__"}
    assert sorted(named) == sorted(there)


def test_modules_import_only_what_stands_above_them():
    above: set[str] = set()
    for row in rows():
        above |= set(row)
        for name in row:
            below = imports(name) - above
            assert not below, f"{name} imports {below}, which stand below it"
