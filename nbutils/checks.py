"""Is everything that a run needs here and whole? One line per check, without running.

Each check is a function that raises LabError for a fault and returns a remark.
"""

from collections.abc import Callable
from functools import partial

from nbutils.core import files
from nbutils.core.errors import LabError
from nbutils.core.profiles import PROFILES
from nbutils.core.sections import MINILM, SMOLLM2
from nbutils.core.settings import DATA, ROOT, resolve
from nbutils.encoder import fetch, models
from nbutils.pages.execute import PAGES, find
from nbutils.pages.run import make_folder
from nbutils.pages.source import check_outputs, sound, stale, yours
from nbutils.synthesis import prompts


def data() -> str:
    """Every file that a SHA256SUMS under data/ lists is there, unchanged."""
    folders = sorted(path.parent for path in DATA.rglob(files.SUMS))
    if not folders:
        raise LabError("data/ holds no SHA256SUMS: restore it with 'git checkout data'")
    for folder in folders:
        files.verify(folder)
    return ", ".join(str(folder.relative_to(ROOT)) for folder in folders)


def page(name: str) -> str:
    """A committed notebook is sound, and its outputs are those of its code.

    One that somebody works on, as an exercise asks for, is no fault.
    """
    path = find(name)
    if remark := yours(path):
        return remark
    notebook = sound(path)
    if fault := stale(notebook):
        number = path.stem.split("_")[0]
        raise LabError(f"{fault}: run 'make notebooks ARGS={number}'")
    check_outputs(notebook)
    return f"{path.stat().st_size / 1000:.0f} kB"


CHECKS: dict[str, Callable[[], str]] = {
    "settings": lambda: f"{max(len(resolve(p).flat()) for p in PROFILES)} settings",
    "data": data,
    "prompts": lambda: ", ".join(prompts.templates()),
    "model": lambda: models.minilm_folder() and MINILM,
    "language model": lambda: fetch.verify_fetched() or SMOLLM2,
    "output folder": lambda: make_folder(ROOT / "runs") or "runs",
} | {f"notebook {name}": partial(page, name) for name in PAGES}


def check_all(say: Callable[[str], None] = print) -> int:
    """Run every check, say one line each, return the number of faults."""
    faults = 0
    for subject, check in CHECKS.items():
        try:
            say(f"✓ {subject}: {check()}")
        except LabError as error:
            faults += 1
            say(f"✗ {subject}: {error}")
    return faults
