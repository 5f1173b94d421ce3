"""What a notebook must be before it runs and after: strict checks without a kernel.

Each check answers a way in which a headless run was seen to pass while it should have
failed: a misspelt parameter that only warned, the string "false", a derived value that
stayed stale, an early exit, a shell line whose failure nobody saw, a widget that
breaks the page. Every fault is a LabError of one line.
"""

from __future__ import annotations

import ast
import copy
import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import nbformat
from nbformat import NotebookNode

from nbutils.core.errors import LabError, nearest
from nbutils.core.files import atomic

MAX_BYTES = 400_000
"""Largest notebook file with its outputs; above it, pages render slowly or not."""

TYPES = {kind.__name__: kind for kind in (str, int, float, bool, dict, list)}
WIDGET = "application/vnd.jupyter.widget-view+json"
BARS = ("tqdm.auto", "tqdm.notebook", "tqdm.autonotebook")
SHELL = ("os.system", "os.popen", "get_ipython().system", "get_ipython().getoutput")


def load(path: str | Path) -> NotebookNode:
    """Read a notebook as nbformat 4. LabError where it is missing or no notebook."""
    path = Path(path)
    if not path.is_file():
        raise LabError(f"notebook {path} does not exist")
    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat raises many kinds, all mean the same here
        reason = str(error).strip().splitlines()[0][:200]
        raise LabError(f"{path} is not a notebook: {reason}") from None


def write(path: str | Path, notebook: NotebookNode) -> None:
    """Write a notebook, whole or not at all."""
    with atomic(path) as temporary:
        nbformat.write(notebook, temporary)


def code_cells(notebook: NotebookNode) -> list[tuple[int, NotebookNode]]:
    """(position in the notebook counted from 1, cell) of each non-empty code cell."""
    numbered = enumerate(notebook.cells, 1)
    return [(n, c) for n, c in numbered if c.cell_type == "code" and c.source.strip()]


def label(number: int, cell: NotebookNode) -> str:
    """`cell 7 ("table = …")`: a cell by its position and its first line."""
    first = next((line for line in cell.source.splitlines() if line.strip()), "")
    return f'cell {number} ("{first if len(first) < 41 else first[:40] + "…"}")'


# -- parameters ----------------------------------------------------------------------


def parameters(notebook: NotebookNode) -> dict[str, tuple[type, Any]]:
    """Name to (type, default) of the parameters that the notebook declares.

    Exactly one code cell is tagged `parameters`; it holds assignments of literals and
    nothing else, because a value derived there would keep the default's value when the
    parameter is changed. Raises LabError otherwise.
    """
    tagged = [
        (number, cell)
        for number, cell in enumerate(notebook.cells, 1)
        if "parameters" in cell.metadata.get("tags", [])
    ]
    if len(tagged) != 1 or tagged[0][1].cell_type != "code":
        raise LabError(
            f"{len(tagged)} cells are tagged 'parameters': tag exactly one code cell"
        )
    number, cell = tagged[0]
    return dict(_declaration(node) for node in _parse(cell.source, number).body)


def _declaration(node: ast.stmt) -> tuple[str, tuple[type, Any]]:
    text = ast.unparse(node)
    annotation = None
    if isinstance(node, ast.AnnAssign):
        target, annotation = node.target, ast.unparse(node.annotation)
    elif isinstance(node, ast.Assign) and len(node.targets) == 1:
        target = node.targets[0]
    else:
        raise LabError(f"parameters cell: {text!r} is no plain assignment")
    try:
        default = ast.literal_eval(node.value)
    except (ValueError, TypeError):
        raise LabError(
            f"parameters cell: {text!r} is derived, it would stay stale when a "
            "parameter is passed: compute it in a later cell"
        ) from None
    kind = TYPES.get(annotation, type(default)) if annotation else type(default)
    if not isinstance(target, ast.Name) or not _fits(default, kind):
        raise LabError(f"parameters cell: {text!r} does not fit its annotation")
    return target.id, (kind, default)


def _fits(value: Any, kind: type) -> bool:
    if isinstance(value, bool) or kind is bool:
        return isinstance(value, bool) and kind is bool
    return isinstance(value, (int, float) if kind is float else kind)


def check_parameters(
    declared: Mapping[str, tuple[type, Any]], passed: Mapping[str, Any]
) -> None:
    """Refuse a passed parameter that is not declared or is of another type."""
    for name, value in passed.items():
        if name not in declared:
            raise LabError(
                f"the notebook has no parameter {name!r}{nearest(name, declared)} "
                f"(it has: {', '.join(declared)})"
            )
        kind = declared[name][0]
        if not _fits(value, kind):
            raise LabError(
                f"parameter {name!r} must be {kind.__name__}, not the "
                f"{type(value).__name__} {value!r}"
            )


# -- source --------------------------------------------------------------------------


def check_source(notebook: NotebookNode, name: str) -> None:
    """Refuse a page that could pass without having done its work.

    Plain Python only (no `!command`, no magics), no widget progress bars, one
    `pages.start` with the notebook's own name, and `run.finish` in the last code cell
    and nowhere else. Raises LabError that names the cell.
    """
    parameters(notebook)
    cells = [(n, _parse(cell.source, n)) for n, cell in code_cells(notebook)]
    starts, ends = [], []
    for number, tree in cells:
        for node in ast.walk(tree):
            _check_node(node, number)
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            starts += [node] if called == "pages.start" else []
            ends += [number] if called == "run.finish" else []
    first = starts[0].args[0] if len(starts) == 1 and starts[0].args else None
    if not isinstance(first, ast.Constant) or first.value != name:
        raise LabError(f"the notebook must call pages.start({name!r}, …) once")
    if ends != [cells[-1][0]]:
        raise LabError("the last code cell, and no other, must call run.finish(…)")


def _parse(source: str, number: int) -> ast.Module:
    try:
        flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        return compile(source, f"cell {number}", "exec", flags)
    except SyntaxError as error:
        line = (error.text or "").strip()
        raise LabError(
            f"cell {number}: {line!r} is not plain Python: shell lines and magics are "
            "refused, because their failures go unseen"
        ) from None


def _check_node(node: ast.AST, number: int) -> None:
    for module in _imported(node):
        if module in BARS:
            raise LabError(
                f"cell {number}: {module} stores a bar stuck at 0 %: use "
                "'from tqdm import tqdm'"
            )
    if isinstance(node, ast.Name) and node.id in ("exit", "quit"):
        raise LabError(
            f"cell {number}: {node.id} ends the notebook early: raise LabError"
        )
    if isinstance(node, ast.Call) and ast.unparse(node.func) in SHELL:
        raise LabError(
            f"cell {number}: {ast.unparse(node.func)} hides a command's failure: use "
            "subprocess.run(…, check=True)"
        )


def _imported(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names)
    elif isinstance(node, ast.ImportFrom) and node.module:
        yield node.module
        yield from (f"{node.module}.{alias.name}" for alias in node.names)
    elif isinstance(node, ast.Attribute):
        yield ast.unparse(node)


def source_sha256(notebook: NotebookNode) -> str:
    """Digest of all code cells' sources: what the outputs were made from."""
    sources = [cell.source for _, cell in code_cells(notebook)]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()


# -- outputs -------------------------------------------------------------------------


def check_outputs(notebook: NotebookNode) -> None:
    """Refuse an executed page with an incomplete cell or an output that misleads.

    Every code cell has completed without an error, every image has alternative text,
    there are no widgets, and the file is below MAX_BYTES. Raises LabError.
    """
    for number, cell in code_cells(notebook):
        for output in cell.outputs:
            _check_output(output, label(number, cell))
        if cell.execution_count is None:
            raise LabError(f"{label(number, cell)} did not run")
    if notebook.metadata.get("widgets"):
        raise LabError("metadata.widgets is present: GitHub would not show the page")
    size = len(nbformat.writes(notebook).encode())
    if size > MAX_BYTES:
        raise LabError(
            f"the notebook with its outputs is {size / 1000:.0f} kB, over "
            f"{MAX_BYTES / 1000:.0f} kB: print less, or make the figures smaller"
        )


def _check_output(output: NotebookNode, where: str) -> None:
    if output.output_type == "error":
        raise LabError(f"{where}{error_text(output)}")
    data = output.get("data", {})
    if WIDGET in data:
        raise LabError(f"{where} shows a widget: print or plot instead")
    for kind in data:
        alt = output.get("metadata", {}).get(kind, {})
        if kind.startswith("image/") and not (isinstance(alt, dict) and alt.get("alt")):
            raise LabError(
                f"{where} shows an image without alternative text: use "
                "run.figure(name, (figure, description))"
            )


def error_text(output: NotebookNode) -> str:
    """An error output as the end of one line: `: ValueError: …`.

    An early exit is called that; a LabError is its own message alone.
    """
    value = (output.get("evalue") or "").strip().splitlines() or [""]
    if output.ename in ("SystemExit", "KeyboardInterrupt"):
        return f" left the notebook early ({output.ename} {value[-1]}".rstrip() + ")"
    if output.ename == "LabError":
        return f": {value[-1]}"
    return f": {output.ename}: {value[-1]}".rstrip(": ")


# -- the committed page --------------------------------------------------------------


def committed(original: NotebookNode, executed: NotebookNode) -> NotebookNode:
    """`original` with the outputs of `executed`, fit to be kept in git.

    No injected parameters, times, widgets or machine's language version; cells are
    counted 1, 2, 3 …; the sources' digest is kept as `metadata.nbutils`.
    """
    page = copy.deepcopy(original)
    done = [
        cell
        for _, cell in code_cells(executed)
        if "injected-parameters" not in cell.metadata.get("tags", [])
    ]
    cells = [cell for _, cell in code_cells(page)]
    for count, (cell, result) in enumerate(zip(cells, done, strict=True), 1):
        cell.outputs = copy.deepcopy(result.outputs)
        cell.execution_count = count
        for output in cell.outputs:
            if output.output_type == "execute_result":
                output.execution_count = count
    for cell in page.cells:
        kept = {key: cell.metadata[key] for key in ("tags",) if key in cell.metadata}
        cell.metadata = NotebookNode(kept)
    page.metadata = NotebookNode(
        kernelspec={
            "display_name": "Python 3 (ipykernel)",
            "language": "python",
            "name": "python3",
        },
        language_info={"name": "python"},
        nbutils={"source_sha256": source_sha256(original)},
    )
    return page


def check_fresh(notebook: NotebookNode) -> None:
    """Refuse a committed page whose code is newer than its outputs."""
    stored = notebook.metadata.get("nbutils", {}).get("source_sha256")
    if stored != source_sha256(notebook):
        what = "its code is newer than its outputs" if stored else "it has not been run"
        raise LabError(f"{what}: run 'make notebooks'")
