"""A page cut down to the cells of a tag: the 90-minute path `lab90`."""

from __future__ import annotations

import copy
from pathlib import Path

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell

from nbutils.core.errors import LabError, nearest
from nbutils.pages import source

NEEDS = "-needs"
"""The cell `lab90-needs` is run on the path `lab90`, and no slide."""


def write_cut(path: Path, tag: str, folder: Path) -> Path:
    """Write `cut` of the page at `path` to FOLDER/NAME.ipynb; returns that path."""
    page = source.load(path)
    try:
        source.write(folder / path.name, cut(page, tag))
    except LabError as error:
        raise LabError(f"{path.stem}: {error}") from None
    return folder / path.name


def cut(page: NotebookNode, tag: str) -> NotebookNode:
    """A copy with the cells of a tag, those of TAG-needs and the parameters.

    The last cell ends the run, without the whole page's metrics. LabError where no cell
    has the tag.
    """
    tags = [set(cell.metadata.get("tags", [])) for cell in page.cells]
    if tag not in (known := set().union(*tags)):
        raise LabError(f"no cell is tagged {tag!r}{nearest(tag, known)}")
    asked = {tag, tag + NEEDS, "parameters"}
    made = copy.deepcopy(page)
    made.cells = [c for c, own in zip(made.cells, tags, strict=True) if own & asked]
    for cell in made.cells:
        if cell.cell_type == "code":
            cell.update(outputs=[], execution_count=None)
    if "run.finish(" not in made.cells[-1].source:
        made.cells.append(new_code_cell("run.finish({})"))
    return made
