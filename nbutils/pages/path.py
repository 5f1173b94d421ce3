"""A page cut down to the cells of a tag: the 90-minute path `lab90`."""

from pathlib import Path

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from nbutils.core.errors import LabError, nearest
from nbutils.pages import source

NEEDS = "-needs"
"""The cell `lab90-needs` is run on the path `lab90`, and no slide."""


def write_cut(path: Path, tag: str, folder: Path) -> Path:
    """Write `cut` of the page at `path` to FOLDER/NAME.ipynb; returns that path."""
    with source.named(path.stem):
        source.write(folder / path.name, cut(source.load(path), tag))
    return folder / path.name


def cut(page: NotebookNode, tag: str) -> NotebookNode:
    """A copy with the cells of a tag, those of TAG-needs and the parameters.

    The last cell ends the run, without the whole page's metrics. LabError where no cell
    has the tag.
    """
    made = source.cleared(page)
    if tag not in (known := {own for cell in made.cells for own in source.tags(cell)}):
        raise LabError(f"no cell is tagged {tag!r}{nearest(tag, known)}")
    asked = {tag, tag + NEEDS, "parameters"}
    made.cells = [cell for cell in made.cells if asked & {*source.tags(cell)}]
    if "run.finish(" not in made.cells[-1].source:
        made.cells.append(new_code_cell("run.finish({})"))
    return made
