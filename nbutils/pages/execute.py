"""Strict headless runs: a notebook either did all its work, or the run is an error.

Papermill executes; the checks of `source` stand before and after it, because by itself
it only warns of a misspelt parameter and lets an early exit pass.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from papermill.engines import papermill_engines
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from traitlets import default

from nbutils.core.errors import LabError, nearest
from nbutils.core.files import read_json
from nbutils.core.machine import check_machine, environment
from nbutils.core.settings import ROOT, resolve
from nbutils.pages import source
from nbutils.pages.index import write_index, write_page
from nbutils.pages.path import write_cut
from nbutils.pages.run import HEADLESS, make_folder

PAGES = (
    "01_task_brainstorming",
    "02_graded_negative_synthesis",
    "03_positive_aware_mining",
    "04_anchor_token_attention",
    "05_qlora_curriculum_training",
    "06_evaluation",
)
BONUS = ("01b_costs_and_asking_again", "03b_mining_in_depth")
DEFAULT_PROFILE = "workshop"
TIMEOUT = 600
"""Seconds that one cell may take, unless the caller says otherwise."""


@dataclass
class Outcome:
    """What became of one notebook: "done", "failed" or "not run"."""

    name: str
    folder: Path
    state: str = "not run"
    seconds: float = 0.0
    error: str = ""
    metrics: dict[str, Any] = field(default_factory=dict)


def find(name: str) -> Path:
    """The notebook of a full name, number or path; LabError names the nearest one."""
    if name.endswith(".ipynb"):
        return Path(name).resolve()
    names = PAGES + BONUS
    for known in names:
        number = known.split("_")[0]
        if name in (known, number, number.lstrip("0")):
            return ROOT / "notebooks" / f"{known}.ipynb"
    near = nearest(name, names)
    raise LabError(f"unknown notebook {name!r}{near} (known: {', '.join(names)})")


# -- one notebook --------------------------------------------------------------------


def execute(
    notebook: str | Path,
    out: str | Path = "runs",
    profile: str = DEFAULT_PROFILE,
    overrides: dict[str, Any] | None = None,
    timeout: int | None = None,
) -> dict[str, Any]:
    """Run one notebook in a fresh kernel at the repository root; returns its metrics.

    The executed page is OUT/PROFILE/NAME/NAME.ipynb; after a failure there is instead
    NAME.failed.ipynb, with what had run. `timeout` is in seconds for each cell (0: no
    limit). LabError names the cell and the cause, or the folder another run writes to.
    """
    name, overrides = Path(notebook).stem, overrides or {}
    settings = resolve(profile, overrides)
    page = check(notebook)
    check_machine(settings)
    folder = Path(ROOT, out, settings.profile, name)
    make_folder(folder)
    lock = FileLock(folder.with_name(f".{name}.lock"), timeout=0)
    try:
        lock.acquire()  # the system frees the lock of a run that died
    except Timeout:
        raise LabError(
            f"{name}: another run writes to {folder}: wait, or name another --out"
        ) from None
    try:
        _clear(folder)
        passed = {"profile": profile, "overrides": overrides, "out": str(out)}
        quiet = {"TQDM_DISABLE": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
        # tqdm.auto takes a kernel for somebody's notebook, draws a widget and does not
        # hear TQDM_DISABLE; where any name begins so, it makes the plain bar
        quiet["SPYDER_HEADLESS"] = "1"
        variables = {**environment(settings), **quiet, HEADLESS: "1"}
        page = load_notebook_node(page)
        page = parameterize_notebook(page, passed, kernel_name="python3")
        _run(page, variables, TIMEOUT if timeout is None else timeout)
        source.check_outputs(page)
        report = read_json(folder / "metrics.json")
        if report["settings"] != settings.flat():
            raise LabError("the notebook did not run with the settings passed to it")
        source.write(folder / f"{name}.ipynb", page)
        return report
    except LabError as error:
        page.metadata["nbutils"] = {"error": str(error)}
        (folder / "metrics.json").unlink(missing_ok=True)
        source.write(folder / f"{name}.failed.ipynb", page)
        raise LabError(f"{name}: {error}") from None
    finally:
        lock.release()


def check(notebook: str | Path) -> NotebookNode:
    """The notebook, if it may be run; else LabError."""
    name, page = Path(notebook).stem, source.load(notebook)
    try:
        source.check_source(page, name)
    except LabError as error:
        raise LabError(f"{name}: {error}") from None
    return page


def _clear(folder: Path) -> None:
    """Empty a run's folder, so that no older file passes for this run's.

    Candidate tables stay: each names what it was made from.
    """
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif not path.match("candidates-*.parquet"):
            path.unlink()


class OwnKernel(AsyncKernelManager):
    """Starts this very Python as "python3", whatever kernels of that name there are."""

    @default("kernel_spec_manager")
    def _no_installed_ones(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])  # then ipykernel gives its own


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _run(page: NotebookNode, variables: dict[str, str], limit: int) -> None:
    """Let papermill execute the page in place; an exception stays in its outputs.

    LabError for a cell that takes longer than `limit` seconds or ends the kernel.
    """
    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    started = [0]
    try:
        with _environment(variables):
            papermill_engines.execute_notebook_with_engine(
                None,
                page,
                kernel_name="python3",  # whatever kernel the page was saved with
                progress_bar=False,
                execution_timeout=limit or None,
                resources={"metadata": {"path": str(ROOT)}},
                kernel_manager_class=OwnKernel,
                extra_arguments=["--log-level=CRITICAL"],  # errors come as outputs
                on_cell_start=lambda cell, cell_index: started.append(cell_index),
            )
        return
    except CellTimeoutError:
        fault = f"took longer than {limit} s: raise --timeout, or take less data"
    except DeadKernelError:
        fault = "ended the kernel (an exit, a crash, or too little memory)"
    except RuntimeError as error:
        if "Kernel didn't respond" not in str(error):
            raise
        raise LabError(
            "no kernel answers on this machine's own address (127.0.0.1): is its "
            "loopback interface up, and does no other program hold the cores?"
        ) from None
    raise LabError(f"{source.label(started[-1] + 1, page.cells[started[-1]])} {fault}")


# -- several in order ----------------------------------------------------------------


def run_all(
    names: Sequence[str] = PAGES,
    out: str = "runs",
    profile: str = DEFAULT_PROFILE,
    overrides: dict[str, Any] | None = None,
    timeout: int | None = None,
    keep: bool = False,
    tag: str = "",
    say: Callable[[str], None] = print,
) -> list[Outcome]:
    """Run notebooks in order, each in its own kernel, and write OUT/index.html.

    All are checked before the first one starts. After a failure the rest is not run.
    `keep` writes the outputs into the notebooks themselves, the committed pages. With a
    `tag` its cells alone are run, and all is written below OUT/TAG.
    Raises LabError only for a fault that was found before anything started.
    """
    if keep and (profile != DEFAULT_PROFILE or overrides or tag or out != "runs"):
        raise LabError(
            "committed notebooks show the default run: leave out --profile, --set, "
            "--config, --tag and --out"
        )
    paths = [find(name) for name in names]
    if tag:
        out = str(Path(out, tag))
        paths = [write_cut(path, tag, Path(ROOT, out)) for path in paths]
    settings = resolve(profile, overrides)
    for path in paths:
        check(path)
    check_machine(settings)
    outcomes = [Outcome(p.stem, Path(ROOT, out, profile, p.stem)) for p in paths]
    for path, outcome in zip(paths, outcomes, strict=True):
        began = time.perf_counter()
        try:
            outcome.metrics = execute(path, out, profile, overrides, timeout)
            executed = outcome.folder / f"{outcome.name}.ipynb"
            write_page(executed)
            if keep:
                page = source.committed(source.load(path), source.load(executed))
                source.check_outputs(page)
                source.write(path, page)
            outcome.state = "done"
        except LabError as error:
            outcome.state, outcome.error = "failed", str(error)
        outcome.seconds = time.perf_counter() - began
        say(f"{outcome.name}: {outcome.state} after {outcome.seconds:.0f} s")
        if outcome.state == "failed":
            break
    write_index(Path(ROOT, out))
    return outcomes
