"""A page cut down to a tag's cells and what they need: the 90-minute path `lab90`."""

from __future__ import annotations

import ast
import copy
import symtable
from pathlib import Path

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from nbutils.core.errors import LabError, nearest
from nbutils.pages import source

CHANGES = {"append", "extend", "add", "update", "insert", "pop", "remove", "setdefault"}
"""Methods that change the object they belong to, as far as a cell's text can tell."""


def write_cut(path: Path, tag: str, folder: Path) -> Path:
    """Write `cut` of the page at `path` to FOLDER/NAME.ipynb; returns that path."""
    page = source.load(path)
    try:
        source.write(folder / path.name, cut(page, tag))
    except LabError as error:
        raise LabError(f"{path.stem}: {error}") from None
    return folder / path.name


def cut(page: NotebookNode, tag: str) -> NotebookNode:
    """A copy with the cells of a tag, the parameters, and the code these take from.

    Read from the end, a code cell stays where it binds or changes a name that a later
    one takes. The last cell ends the run, without the whole page's metrics. LabError
    where no cell has the tag.
    """
    tags = [cell.metadata.get("tags", []) for cell in page.cells]
    known = {name for names in tags for name in names} - {"parameters"}
    if tag not in known:
        raise LabError(f"no cell is tagged {tag!r}{nearest(tag, known)}")
    kept, wanted = [], set()
    for cell, own in zip(reversed(page.cells), reversed(tags), strict=True):
        asked = tag in own or "parameters" in own
        if cell.cell_type == "code":
            takes, binds, changes = names_of(cell.source)
            if not asked and not wanted & (binds | changes):
                continue
            wanted = (wanted - binds) | takes
        elif not asked:
            continue
        kept.append(copy.deepcopy(cell))
    end = [] if "run.finish(" in kept[0].source else [new_code_cell("run.finish({})")]
    for cell in kept:
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)
    made = copy.deepcopy(page)
    made.cells = kept[::-1] + end
    return made


def names_of(code: str) -> tuple[set[str], set[str], set[str]]:
    """The names of its module that a cell (takes, binds for certain, may change)."""
    found = _Names()
    found.follow(ast.parse(code).body)
    return found.takes, found.bound, found.changes


class _Names:
    """What statements do to names, read from the first to the last."""

    def __init__(self, bound: set[str] = frozenset()) -> None:
        self.takes, self.bound, self.changes = set(), set(bound), set()

    def follow(self, statements: list[ast.stmt]) -> None:
        for statement in statements:
            match statement:
                case ast.With():
                    for item in statement.items:
                        self.read(item.context_expr)
                        self.bound |= _stored(item.optional_vars)
                    self.follow(statement.body)
                case ast.For():  # taken to run at least once
                    self.read(statement.iter)
                    self.bound |= _stored(statement.target)
                    self.follow(statement.body + statement.orelse)
                case ast.If():
                    self.read(statement.test)
                    self.branch(statement.body, statement.orelse)
                case ast.Try():
                    parts = [handler.body for handler in statement.handlers]
                    self.branch(statement.body, *parts)
                    self.follow(statement.finalbody)
                case _:
                    self.read(statement)

    def branch(self, *ways: list[ast.stmt]) -> None:
        """What every way binds is bound; what one of them binds may keep its value."""
        ends = [_Names(self.bound) for _ in ways]
        for end, way in zip(ends, ways, strict=True):
            end.follow(way)
            self.takes |= end.takes
            self.changes |= end.changes
        certain = set.intersection(*(end.bound for end in ends))
        perhaps = set.union(*(end.bound for end in ends)) - certain
        self.bound |= certain
        self.changes |= perhaps
        self.takes |= perhaps

    def read(self, node: ast.AST) -> None:
        """A statement without others within, or a part of one."""
        taken, bound, seen = set(), set(), set()
        tables = [symtable.symtable(ast.unparse(node), "cell", "exec")]
        while tables:
            table = tables.pop()
            tables += table.get_children()
            for symbol in table.get_symbols():
                if table.get_type() == "module" or symbol.is_global():
                    name = symbol.get_name()
                    seen.add(name)
                    taken |= {name} if symbol.is_referenced() else set()
                    if symbol.is_assigned() or symbol.is_imported():
                        bound.add(name)
        changed = seen & set().union(*map(_changed, ast.walk(node)))
        taken |= changed
        self.takes |= taken - self.bound
        self.changes |= changed - self.bound
        self.bound |= bound - changed


def _stored(target: ast.expr | None) -> set[str]:
    """The names that the target of a loop or a `with` binds."""
    nodes = ast.walk(target) if target else ()
    return {node.id for node in nodes if isinstance(node, ast.Name)}


def _changed(node: ast.AST) -> set[str]:
    """The name whose object a node changes, or none."""
    target = None
    match node:
        case (
            ast.AugAssign(target=target)
            | ast.Subscript(value=target, ctx=ast.Store() | ast.Del())
            | ast.Attribute(value=target, ctx=ast.Store() | ast.Del())
        ):
            pass
        case ast.Call(func=ast.Attribute(value=target, attr=name)):
            target = target if name in CHANGES else None
    while isinstance(target, ast.Subscript | ast.Attribute):
        target = target.value
    return {target.id} if isinstance(target, ast.Name) else set()
