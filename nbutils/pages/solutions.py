"""The notebooks of solutions: each page with its exercises' stubs filled in."""

import ast
import inspect
import io
from contextlib import redirect_stdout
from pathlib import Path

from nbformat import NotebookNode
from nbformat.v4 import new_output

from nbutils.core.settings import ROOT
from nbutils.pages.execute import BONUS, PAGES, find
from nbutils.pages.source import code_cells, load, write


def write_solutions(names: list[str], out: Path) -> list[Path]:
    """Write OUT/NAME.ipynb for each page named, every page if none; their paths."""
    written = []
    for path in map(find, names or sorted(PAGES + BONUS)):
        page = load(path)
        fill_in(page)
        written.append(Path(ROOT, out, path.name))
        write(written[-1], page)
    return written


def fill_in(page: NotebookNode) -> dict[str, str]:
    """Put the solution into each stub's cell, and what the cell prints below it.

    The imports of the solution's file come with it, so that such a cell needs nothing
    but the solutions above it. Returns what was printed, by the exercise's name.
    """
    from exercises import EXERCISES

    said, names = {}, {"__name__": "solutions"}
    for _, cell in code_cells(page):
        for node in ast.parse(cell.source).body:
            if not (isinstance(node, ast.FunctionDef) and node.name in EXERCISES):
                continue
            solution = EXERCISES[node.name].solution
            lines = cell.source.splitlines()
            lines[node.lineno - 1 : node.end_lineno] = [inspect.getsource(solution)]
            cell.source = _imports(inspect.getsourcefile(solution)) + "\n".join(lines)
            with redirect_stdout(io.StringIO()) as printed:
                exec(cell.source, names)
            said[node.name] = printed.getvalue()
            cell.outputs = [new_output("stream", text=said[node.name])]
    return said


def _imports(path: str) -> str:
    nodes = ast.parse(Path(path).read_text(encoding="utf-8")).body
    imports = (node for node in nodes if isinstance(node, ast.Import | ast.ImportFrom))
    lines = [ast.unparse(node) for node in imports]
    kept = [line for line in lines if "from exercises" not in line]
    return "\n".join(kept) + "\n\n\n" if kept else ""
