"""Pages and outputs that are refused without a kernel, and who works on a page."""

import subprocess

import pytest
from conftest import PARAMETERS, probe
from nbformat.v4 import new_output

from nbutils.core.errors import LabError
from nbutils.pages.source import (
    WIDGET,
    check_outputs,
    code_cells,
    committed,
    load,
    sound,
    write,
    yours,
)

MORE = PARAMETERS + "\nfolder = out"
WORK = PARAMETERS + "\nprint(1)"
TYPO = PARAMETERS.replace("profile:", "profil:")
KIND = PARAMETERS.replace("dict", "str")
SYNTAX = "line 2: 'if x' is not plain Python \\(expected"
STARTED = 'run = pages.start("probe", profile, overrides, out)'
BAD_PAGES = {
    "shell line": ("!false", {}, "not plain Python .* magics are refused"),
    "shell value": ("files = !ls", {}, "not plain Python"),
    "magic": ("%%bash\nfalse", {}, "not plain Python"),
    "help": ("print?", {}, "not plain Python"),
    "syntax": ("x = 1\nif x\n    x", {}, SYNTAX),
    "os.system": ("import os\nos.system('false')", {}, "hides a command's failure"),
    "quit": ("if True:\n    quit()", {}, "probe: cell 5: quit ends the notebook early"),
    "no tag": ("", {"tag": ""}, "0 cells are tagged"),
    "derived value": ("", {"parameters": MORE}, "nothing else: .* stays stale"),
    "work among parameters": ("", {"parameters": WORK}, "and nothing else"),
    "another type": ("", {"parameters": KIND}, "must set profile: str, overrides"),
    "missing parameter": ("", {"parameters": TYPO}, "must set profile: str"),
    "started twice": (STARTED, {}, r"must call pages\.start\('probe', …\) once"),
    "finish too early": ("run.finish({})", {}, "the last code cell, and no other"),
    "no finish": ("", {"last": "print('done')"}, "the last code cell, and no other"),
}


@pytest.mark.parametrize("case", BAD_PAGES)
def test_a_faulty_page_is_refused_before_it_runs(case, write_probe):
    body, changes, cause = BAD_PAGES[case]
    with pytest.raises(LabError, match=cause) as caught:
        sound(write_probe(body, **changes))
    assert "\n" not in str(caught.value)


def test_a_page_of_another_name_and_a_truncated_file_are_refused(write_probe, tmp_path):
    copy = write_probe().rename(tmp_path / "copy.ipynb")
    with pytest.raises(LabError, match=r"pages\.start\('copy'"):
        sound(copy)
    copy.write_text('{"cells": [')
    with pytest.raises(LabError, match=r"copy\.ipynb is not a notebook"):
        sound(copy)
    with pytest.raises(LabError, match=r"none\.ipynb does not exist"):
        sound(tmp_path / "none.ipynb")


def test_a_text_that_looks_like_a_shell_line_is_fine(write_probe):
    path = write_probe('text = """\n!ls\n%%bash\n"""  # exit()')
    assert sound(path) == load(path)


# -- outputs ---------------------------------------------------------------------------


def executed(*outputs):
    """A probe that ran, with outputs of its last cell."""
    page = probe("1")
    for count, (_, cell) in enumerate(code_cells(page), 1):
        cell.execution_count = count
    page.cells[-1].outputs = list(outputs)
    return page


UNTOLD = "shows an image without alternative text"
BAD_OUTPUTS = {
    "bare figure": ({"image/png": ""}, UNTOLD),
    "bare tag": ({"text/html": '<img alt="a"><img src="x">'}, UNTOLD),
    "a drawing": ({"image/svg+xml": "<svg/>"}, UNTOLD),
    "a widget": ({WIDGET: {}}, "shows a widget"),
    "too large": ({"text/plain": "x" * 410_000}, "over 400 kB"),
    "an exit": (("SystemExit", ""), r"left the notebook early \(SystemExit\)"),
    "a stop": (("KeyboardInterrupt", ""), "left the notebook early"),
    "an exception": (("KeyError", "'x'\nlast"), r'\("run.*"\): KeyError: last$'),
}


@pytest.mark.parametrize("case", BAD_OUTPUTS)
def test_an_output_that_would_break_or_mislead_is_refused(case):
    shown, cause = BAD_OUTPUTS[case]
    if isinstance(shown, dict):
        output = new_output("display_data", shown)
    else:
        output = new_output("error", ename=shown[0], evalue=shown[1], traceback=[])
    check_outputs(executed())
    with pytest.raises(LabError, match=cause):
        check_outputs(executed(output))


def test_a_cell_that_did_not_complete_is_refused():
    page = executed()
    page.cells[-1].execution_count = None
    with pytest.raises(LabError, match="did not run"):
        check_outputs(page)


# -- the committed page ----------------------------------------------------------------


def test_a_page_that_somebody_works_on_is_told_from_a_stale_one(tmp_path):
    page, path = committed(executed()), tmp_path / "probe.ipynb"

    def git(*words):
        named = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(["git", *named, *words], cwd=tmp_path, check=True)

    write(path, page)
    assert yours(path) == ""  # as the command wrote it, git or not
    git("init", "-q")
    git("add", "probe.ipynb")
    git("commit", "-qm", "a page")
    page.cells[4].source += "\n# my answer"
    write(path, page)
    assert "'git checkout notebooks/probe.ipynb' restores it" in yours(path)
    git("commit", "-qam", "stale")
    assert yours(path) == ""  # a fault of the house, which `stale` names
    page = committed(executed())
    page.metadata["language_info"]["version"] = "3.11"  # as JupyterLab saves it
    write(path, page)
    assert yours(path)
