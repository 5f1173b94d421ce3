"""Strict headless runs: a notebook either did all its work, or the run is an error.

Papermill executes; the checks of `source` stand before and after it, because by itself
it only warns of a misspelt parameter and lets an early exit pass.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import zmq
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from papermill.engines import papermill_engines
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from traitlets import default

from nbutils.core.errors import LabError, nearest
from nbutils.core.fields import Settings
from nbutils.core.machine import check_machine, environment
from nbutils.core.settings import ROOT, resolve
from nbutils.pages.index import write_index, write_page
from nbutils.pages.run import HEADLESS
from nbutils.pages.source import (
    check_outputs,
    check_source,
    committed,
    label,
    load,
    write,
)

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
    """The notebook that `name` means: its full name, its number, or a path.

    Raises LabError that names the nearest for anything else.
    """
    if name.endswith(".ipynb"):
        return Path(name).resolve()
    for known in PAGES + BONUS:
        if name in (known, known.split("_")[0]):
            return ROOT / "notebooks" / f"{known}.ipynb"
    near = nearest(name, PAGES + BONUS)
    raise LabError(f"unknown notebook {name!r}{near} (known: {', '.join(PAGES)})")


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
    limit). Raises LabError of one line that names the cell and the cause.
    """
    name, overrides = Path(notebook).stem, overrides or {}
    settings = resolve(profile, overrides)
    page = check(notebook)
    check_machine(settings)
    folder = Path(ROOT, out, settings.profile, name)
    _clear(folder)
    passed = {"profile": profile, "overrides": overrides, "out": str(out)}
    page, fault, last = _run(page, passed, settings, timeout)
    try:
        if fault:
            raise LabError(fault)
        check_outputs(page)
        report = _metrics(folder, last)
        if report["settings"] != settings.flat():
            raise LabError("the notebook did not run with the settings passed to it")
    except LabError as error:
        page.metadata["nbutils"] = {"error": str(error)}
        (folder / "metrics.json").unlink(missing_ok=True)
        write(folder / f"{name}.failed.ipynb", page)
        raise LabError(f"{name}: {error}") from None
    write(folder / f"{name}.ipynb", page)
    return report


def check(notebook: str | Path) -> NotebookNode:
    """The notebook, if it may be run; else LabError."""
    name, page = Path(notebook).stem, load(notebook)
    try:
        check_source(page, name)
    except LabError as error:
        raise LabError(f"{name}: {error}") from None
    return page


def _clear(folder: Path) -> None:
    """Empty a notebook's output folder, so that no older file passes for this run's.

    Candidate tables stay: each names what it was made from and is used for nothing
    else. A run's folder is the run's own; nothing else is safe in it.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        elif not path.match("candidates-*.parquet"):
            path.unlink()


def _metrics(folder: Path, last_cell_began: float) -> dict[str, Any]:
    path = folder / "metrics.json"
    # a file's time is that of a coarser clock than time.time()
    if not path.is_file() or path.stat().st_mtime < last_cell_began - 0.1:
        raise LabError("the last cell has not written metrics.json: call run.finish(…)")
    return json.loads(path.read_text(encoding="utf-8"))


class OwnKernel(AsyncKernelManager):
    """Starts this very Python as "python3", whatever kernels of that name there are."""

    @default("kernel_spec_manager")
    def _no_installed_ones(self) -> KernelSpecManager:
        return KernelSpecManager(kernel_dirs=[])  # then ipykernel gives its own

    @default("transport_encryption")
    def _other_users_share_the_loopback(self) -> str:
        return "auto" if zmq.has("curve") else "disabled"


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(values)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def _run(
    page: NotebookNode, passed: dict[str, Any], settings: Settings, timeout: int | None
) -> tuple[NotebookNode, str, float]:
    """The executed page, a fault or "", and the time at which its last cell began.

    An exception in a cell is no fault here: the page shows it, `check_outputs` sees it.
    """
    logging.getLogger("papermill").setLevel(logging.CRITICAL)
    page = load_notebook_node(page)
    page = parameterize_notebook(page, passed, kernel_name="python3", language="python")
    limit = TIMEOUT if timeout is None else timeout
    quiet = {"TQDM_DISABLE": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1", HEADLESS: "1"}
    began: dict[int, float] = {}
    fault = ""
    try:
        with _environment({**environment(settings), **quiet}):
            papermill_engines.execute_notebook_with_engine(
                None,
                page,
                kernel_name="python3",
                progress_bar=False,
                execution_timeout=limit or None,
                resources={"metadata": {"path": str(ROOT)}},
                kernel_manager_class=OwnKernel,
                extra_arguments=["--log-level=CRITICAL"],  # errors come as outputs
                on_cell_start=lambda cell, cell_index: began.update(
                    {cell_index: time.time()}
                ),
            )
    except CellTimeoutError:
        fault = f" took longer than {limit} s: raise --timeout, or take less data"
    except DeadKernelError:
        fault = " ended the kernel (an exit, a crash, or too little memory)"
    last = max(began, default=0)
    where = label(last + 1, page.cells[last]) if fault else ""
    return page, where + fault, began.get(last, 0.0)


# -- several in order ----------------------------------------------------------------


def run_all(
    names: Sequence[str] = PAGES,
    out: str = "runs",
    profile: str = DEFAULT_PROFILE,
    overrides: dict[str, Any] | None = None,
    timeout: int | None = None,
    keep: bool = False,
    say: Callable[[str], None] = print,
) -> list[Outcome]:
    """Run notebooks in order, each in its own kernel, and write OUT/index.html.

    All are checked before the first one starts. After a failure the rest is not run.
    `keep` writes the outputs into the notebooks themselves, the committed pages.
    Raises LabError only for a fault that was found before anything started.
    """
    if keep and (profile != DEFAULT_PROFILE or overrides or out != "runs"):
        raise LabError(
            "committed notebooks show the default run: leave out --profile, --set, "
            "--config and --out"
        )
    paths = [find(name) for name in names]
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
                page = committed(load(path), load(executed))
                check_outputs(page)
                write(path, page)
            outcome.state = "done"
        except LabError as error:
            outcome.state, outcome.error = "failed", str(error)
        outcome.seconds = time.perf_counter() - began
        say(f"{outcome.name}: {outcome.state} after {outcome.seconds:.0f} s")
        if outcome.state == "failed":
            break
    write_index(Path(ROOT, out))
    return outcomes
