"""Strict headless runs: a notebook either did all its work, or the run is an error.

Papermill executes; the checks of `source` stand before and after it, because by itself
it only warns of a misspelt parameter and lets an early exit pass.
"""

import os
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from nbclient.exceptions import CellTimeoutError, DeadKernelError
from nbformat import NotebookNode
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NotebookExecutionManager
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from traitlets import default

from nbutils.core.errors import LabError, known
from nbutils.core.files import alone, read_json
from nbutils.core.machine import check_machine, environment
from nbutils.core.settings import ROOT, Settings, resolve
from nbutils.pages import source
from nbutils.pages.index import write_index, write_page
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
    pages = {page.split("_")[0]: page for page in PAGES + BONUS}
    page = pages.get(name) or pages.get(f"0{name}") or name
    return ROOT / "notebooks" / f"{known('notebook', page, pages.values())}.ipynb"


def run_all(
    names: Sequence[str] = PAGES,
    out: str = "runs",
    profile: str = DEFAULT_PROFILE,
    overrides: dict[str, Any] | None = None,
    timeout: int = 600,
    keep: bool = False,
    tag: str = "",
    say: Callable[[str], None] = print,
) -> list[Outcome]:
    """Run notebooks in order, each in its own kernel, and write OUT/index.html.

    All are checked before the first one starts. An executed page is
    OUT/PROFILE/NAME/NAME.ipynb, and NAME.html beside it; after a failure it is
    NAME.failed.ipynb, with what had run, and the rest is not run. `timeout` is in
    seconds for each cell (0: no limit). `keep` writes the outputs into the notebooks
    themselves, the committed pages. With a `tag` its cells alone are run, and all is
    written below OUT/TAG. Raises LabError only for a fault that was found before
    anything started; later ones, with cell and cause, are their outcome's `error`.
    """
    if keep and (profile != DEFAULT_PROFILE or overrides or tag or out != "runs"):
        raise LabError(
            "committed notebooks show the default run: leave out --profile, --set, "
            "--config, --tag and --out"
        )
    paths = [find(name) for name in names]
    if tag:
        out = str(Path(out, tag))
        paths = [source.write_cut(path, tag, Path(ROOT, out)) for path in paths]
    settings = resolve(profile, overrides)
    for path in paths:
        source.sound(path)
    check_machine(settings)
    make_folder(Path(ROOT, out))
    passed = {"profile": profile, "overrides": overrides or {}, "out": out}
    outcomes = [Outcome(p.stem, Path(ROOT, out, profile, p.stem)) for p in paths]
    for path, outcome in zip(paths, outcomes, strict=True):
        began, before = time.perf_counter(), path.read_bytes()
        try:
            with source.named(outcome.name):
                page = _execute(path, outcome.folder, settings, passed, timeout)
            outcome.metrics = read_json(outcome.folder / "metrics.json")
            if keep:
                if path.read_bytes() != before:
                    raise LabError(
                        f"{path.name} was edited while it ran, so it is left as it is; "
                        f"the page that ran is in {outcome.folder}"
                    )
                source.write(path, source.committed(page))
            outcome.state = "done"
        except LabError as error:
            outcome.state, outcome.error = "failed", str(error)
        outcome.seconds = time.perf_counter() - began
        say(f"{outcome.name}: {outcome.state} after {outcome.seconds:.0f} s")
        if outcome.state == "failed":
            break
    write_index(Path(ROOT, out))
    return outcomes


# -- one notebook --------------------------------------------------------------------


def _execute(
    path: Path, folder: Path, settings: Settings, passed: dict, limit: int
) -> NotebookNode:
    """The page with its outputs, which is written to its folder; else LabError."""
    page = load_notebook_node(source.cleared(source.load(path)))
    page = parameterize_notebook(page, passed, kernel_name="python3")
    make_folder(folder)
    with alone(folder):
        _clear(folder)
        try:
            _run(page, settings, limit)
            source.check_outputs(page)
            if read_json(folder / "metrics.json")["settings"] != settings.flat():
                raise LabError(
                    "the notebook did not run with the settings passed to it"
                )
            source.write(folder / path.name, page)
            write_page(folder / path.name)
        except LabError as error:
            page.metadata["nbutils"] = {"error": str(error)}
            (folder / "metrics.json").unlink(missing_ok=True)
            source.write(folder / f"{path.stem}.failed.ipynb", page)
            raise
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


def _run(page: NotebookNode, settings: Settings, limit: int) -> None:
    """Execute a page in place, at the repository's root; an exception is an output.

    LabError for a cell that takes longer than `limit` seconds or ends the kernel.
    """
    quiet = {HEADLESS: "1", "TQDM_DISABLE": "1", "PYDEVD_DISABLE_FILE_VALIDATION": "1"}
    # tqdm.auto takes a kernel for somebody's notebook, draws a widget and does not
    # hear TQDM_DISABLE; where any name begins so, it makes the plain bar
    quiet["SPYDER_HEADLESS"] = "1"
    manager = NotebookExecutionManager(page, progress_bar=False)
    client = PapermillNotebookClient(
        manager,
        kernel_name="python3",  # whatever kernel the page was saved with
        kernel_manager_class=OwnKernel,
        extra_arguments=["--log-level=CRITICAL"],  # errors come as outputs
        timeout=limit or None,
    )
    variables = {**os.environ, **environment(settings), **quiet}
    try:
        manager.notebook_start()
        client.execute(env=variables, cwd=str(ROOT))
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
    last = max(n for n, c in enumerate(page.cells) if c.metadata.papermill.start_time)
    raise LabError(f"{source.label(last + 1, page.cells[last])} {fault}")
