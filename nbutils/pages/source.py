"""What a notebook must be before it runs and after: strict checks without a kernel.

Each check answers a way in which a headless run was seen to pass while it should have
failed: a misspelt parameter that only warned, the string "false", a derived value that
stayed stale, an early exit, a shell line whose failure nobody saw, a widget that
breaks the page. Every fault is a LabError of one line.
"""

import ast
import copy
import hashlib
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from nbutils.core.errors import LabError, nearest
from nbutils.core.files import atomic

MAX_BYTES = 400_000
"""Largest notebook file with its outputs; above it, pages render slowly or not."""
WIDGET = "application/vnd.jupyter.widget-view+json"
PARAMETERS = ["profile: str", "overrides: dict", "out: str"]
"""What every page takes, in this order; all else is a setting."""
REFUSED = {
    r"(?<![\w.])(exit|quit)\(": "ends the notebook early: raise LabError",
    r"\bos\.(system|popen)\(|\bget_ipython\(\)\.(system|getoutput)\(": "hides a "
    "command's failure: use subprocess.run(…, check=True)",
}
"""What code may not hold (as a pattern), and why."""


def load(path: str | Path) -> NotebookNode:
    """Read a notebook as nbformat 4. LabError where it is missing or no notebook."""
    if not Path(path).is_file():
        raise LabError(f"notebook {path} does not exist")
    try:
        return nbformat.v4.upgrade(nbformat.read(path, as_version=4))
    except Exception as error:  # nbformat raises many kinds, all mean the same here
        reason = str(error).strip().splitlines()[0][:200]
        raise LabError(f"{path} is not a notebook: {reason}") from None


def write(path: str | Path, notebook: NotebookNode) -> None:
    """Write a notebook, whole or not at all."""
    with atomic(path) as temporary:
        nbformat.write(notebook, temporary)


def tags(cell: NotebookNode) -> list[str]:
    """A cell's tags."""
    return cell.metadata.get("tags", [])


def code_cells(notebook: NotebookNode) -> list[tuple[int, NotebookNode]]:
    """(position in the notebook counted from 1, cell) of each non-empty code cell."""
    numbered = enumerate(notebook.cells, 1)
    return [(n, c) for n, c in numbered if c.cell_type == "code" and c.source.strip()]


def cleared(notebook: NotebookNode) -> NotebookNode:
    """A copy without outputs."""
    made = copy.deepcopy(notebook)
    for cell in made.cells:
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)
    return made


def label(number: int, cell: NotebookNode) -> str:
    """`cell 7 ("table = …")`: a cell by its position and its first line."""
    first = next((line for line in cell.source.splitlines() if line.strip()), "")
    return f'cell {number} ("{first if len(first) < 41 else first[:40] + "…"}")'


@contextmanager
def named(name: str) -> Iterator[None]:
    """A LabError of the block begins with a page's name."""
    try:
        yield
    except LabError as error:
        raise LabError(f"{name}: {error}") from None


# -- source --------------------------------------------------------------------------


def sound(path: Path) -> NotebookNode:
    """The page at `path`, if it cannot pass without having done its work.

    One code cell is tagged `parameters` and sets PARAMETERS and nothing else; all is
    plain Python (no `!command`, no magics), without REFUSED; it calls `pages.start`
    once, with its own name, and `run.finish` in the last code cell alone. Otherwise
    LabError names the page and the cell.
    """
    page = load(path)
    with named(path.stem):
        code = {
            number: _plain(cell.source, number) for number, cell in code_cells(page)
        }
        tagged = [
            n for n, cell in enumerate(page.cells, 1) if "parameters" in tags(cell)
        ]
        if len(tagged) != 1 or tagged[0] not in code:
            count = f"{len(tagged)} cells are tagged 'parameters'"
            raise LabError(f"{count}: tag exactly one code cell")
        lines = code[tagged[0]].splitlines()
        if [line.split(" = ")[0] for line in lines] != PARAMETERS:
            raise LabError(
                f"the parameters cell must set {', '.join(PARAMETERS)} and nothing "
                "else: what is derived there stays stale when a parameter is passed"
            )
        for number, source in code.items():
            for pattern, reason in REFUSED.items():
                if found := re.search(pattern, source):
                    raise LabError(f"cell {number}: {found[0].rstrip('(')} {reason}")
        started = re.findall(r"\bpages\.start\(([^,)]*)", "\n".join(code.values()))
        if started != [repr(path.stem)]:
            raise LabError(f"the notebook must call pages.start({path.stem!r}, …) once")
        if [n for n, source in code.items() if "run.finish(" in source] != [max(code)]:
            raise LabError("the last code cell, and no other, must call run.finish(…)")
    return page


def _plain(source: str, number: int) -> str:
    """A cell's code in Python's own layout, without comments."""
    try:
        flags = ast.PyCF_ONLY_AST | ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        return ast.unparse(compile(source, f"cell {number}", "exec", flags))
    except SyntaxError as error:
        line = (error.text or "").strip()
        raise LabError(
            f"cell {number}, line {error.lineno}: {line!r} is not plain Python "
            f"({error.msg}); shell lines and magics are refused, because their "
            "failures go unseen"
        ) from None


# -- outputs -------------------------------------------------------------------------


def check_outputs(notebook: NotebookNode) -> None:
    """Refuse an executed page with an incomplete cell or an output that misleads.

    Every code cell has completed without an error, every image has alternative text,
    there are no widgets, and the file is below MAX_BYTES. Raises LabError.
    """
    for number, cell in code_cells(notebook):
        where = label(number, cell)
        for output in cell.outputs:
            if output.output_type == "error":
                raise LabError(where + _error_text(output))
            if WIDGET in output.get("data", {}):
                raise LabError(f"{where} shows a widget: print or plot instead")
            if not all(alternative_texts(output)):
                raise LabError(
                    f"{where} shows an image without alternative text: use "
                    "run.figure(name, (figure, description))"
                )
        if cell.execution_count is None:
            raise LabError(f"{where} did not run")
    size = len(nbformat.writes(notebook).encode())
    if size > MAX_BYTES:
        raise LabError(
            f"the notebook with its outputs is {size / 1000:.0f} kB, over "
            f"{MAX_BYTES / 1000:.0f} kB: print less, or make the figures smaller"
        )


def alternative_texts(output: NotebookNode) -> list[str]:
    """The alternative text of each image of an output, "" where it has none."""
    data, about = output.get("data", {}), output.get("metadata", {})
    kinds = [kind for kind in data if kind.startswith("image/")]
    images = re.findall(r"<img\b[^>]*>", data.get("text/html", ""))
    texts = [about.get(kind, {}).get("alt", "") for kind in kinds]
    return texts + ["".join(re.findall(r'\balt="([^"]*)"', image)) for image in images]


def _error_text(output: NotebookNode) -> str:
    """The end of one line: an early exit is called that, a LabError is its message."""
    last = ((output.get("evalue") or "").strip().splitlines() or [""])[-1]
    if output.ename in ("SystemExit", "KeyboardInterrupt"):
        return f" left the notebook early ({f'{output.ename} {last}'.rstrip()})"
    return f": {last}" if output.ename == "LabError" else f": {output.ename}: {last}"


# -- the committed page --------------------------------------------------------------


def committed(executed: NotebookNode) -> NotebookNode:
    """An executed page fit to be kept in git.

    No injected parameters, times, widgets or machine's language version; cells are
    counted 1, 2, 3 …; the sources' digest is kept as `metadata.nbutils`.
    """
    page = copy.deepcopy(executed)
    page.cells = [c for c in page.cells if "injected-parameters" not in tags(c)]
    for count, (_, cell) in enumerate(code_cells(page), 1):
        for counted in (cell, *cell.outputs):
            if "execution_count" in counted:
                counted.execution_count = count
    for cell in page.cells:
        cell.metadata = NotebookNode({"tags": tags(cell)} if tags(cell) else {})
    kernel = "Python 3 (ipykernel)"
    page.metadata = NotebookNode(
        kernelspec={"display_name": kernel, "language": "python", "name": "python3"},
        language_info={"name": "python"},
        nbutils={"source_sha256": source_sha256(page)},
    )
    return page


def source_sha256(notebook: NotebookNode) -> str:
    """Digest of all code cells' sources: what the outputs were made from."""
    sources = [cell.source for _, cell in code_cells(notebook)]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()


def stale(notebook: NotebookNode) -> str:
    """In words, that a committed page's outputs are not those of its code; else ""."""
    stored = notebook.metadata.get("nbutils", {}).get("source_sha256")
    if stored == source_sha256(notebook):
        return ""
    return "its code is newer than its outputs" if stored else "it has not been run"


def yours(path: Path) -> str:
    """A remark on a committed page that somebody works on here, else "".

    Such a page was saved by JupyterLab, or has other code than its outputs, and is not
    the one that git keeps. Where git cannot tell, it counts as somebody's work.
    """
    page = load(path)
    by_jupyterlab = "version" in page.metadata.get("language_info", {})
    if not by_jupyterlab and not stale(page):
        return ""
    command = ["git", "diff", "--quiet", "HEAD", "--", path.name]
    with suppress(OSError):  # no git here
        if not subprocess.run(command, cwd=path.parent, capture_output=True).returncode:
            return ""
    restore = f"'git checkout notebooks/{path.name}' restores it"
    return f"changed by you since it was run; {restore}"


# -- the short path ------------------------------------------------------------------

NEEDS = "-needs"
"""The cell `lab90-needs` is run on the path `lab90`, and no slide."""


def write_cut(path: Path, tag: str, folder: Path) -> Path:
    """Write `cut` of the page at `path` to FOLDER/NAME.ipynb; returns that path."""
    with named(path.stem):
        write(folder / path.name, cut(load(path), tag))
    return folder / path.name


def cut(page: NotebookNode, tag: str) -> NotebookNode:
    """A copy with the cells of a tag, those of TAG-needs and the parameters.

    The last cell ends the run, without the whole page's metrics. LabError where no cell
    has the tag.
    """
    made = cleared(page)
    if tag not in (known := {own for cell in made.cells for own in tags(cell)}):
        raise LabError(f"no cell is tagged {tag!r}{nearest(tag, known)}")
    asked = {tag, tag + NEEDS, "parameters"}
    made.cells = [cell for cell in made.cells if asked & {*tags(cell)}]
    if "run.finish(" not in made.cells[-1].source:
        made.cells.append(new_code_cell("run.finish({})"))
    return made
