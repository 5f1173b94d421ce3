"""Is everything that a run needs here and whole? One line per check, without running.

Each check is a function that raises LabError for a fault and returns a remark.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from nbutils.core import files, profiles, sections, settings
from nbutils.core.errors import LabError
from nbutils.core.settings import DATA, ROOT
from nbutils.encoder import fetch, models
from nbutils.pages.execute import PAGES, find
from nbutils.pages.source import (
    check_fresh,
    check_outputs,
    check_source,
    load,
    yours,
)
from nbutils.synthesis import plan


def data() -> str:
    """Every file that a SHA256SUMS under data/ lists is there, unchanged."""
    folders = sorted(path.parent for path in DATA.rglob(files.SUMS))
    if not folders:
        raise LabError("data/ holds no SHA256SUMS: restore it with 'git checkout data'")
    for folder in folders:
        files.verify(folder)
    return ", ".join(str(folder.relative_to(ROOT)) for folder in folders)


def language_model() -> str:
    """SmolLM2's files are on this machine, as they were written."""
    fetch.verify_fetched()
    return sections.SMOLLM2


def resolved() -> str:
    """Every profile resolves."""
    found = [settings.resolve(profile) for profile in profiles.PROFILES]
    return f"{len(found[0].flat())} settings"


def writable() -> str:
    """runs/ can be written to."""
    probe = ROOT / "runs" / ".probe"
    with files.writing(probe) as made:
        made.touch()
    probe.unlink()
    return "runs"


def page(name: str) -> str:
    """A committed notebook is sound, and its outputs are those of its code.

    One that somebody works on, as an exercise asks for, is no fault.
    """
    path = find(name)
    if remark := yours(path):
        return remark
    notebook = load(path)
    check_source(notebook, name)
    check_fresh(notebook)
    check_outputs(notebook)
    return f"{path.stat().st_size / 1000:.0f} kB"


CHECKS: dict[str, Callable[[], str]] = {
    "settings": resolved,
    "data": data,
    "prompts": lambda: ", ".join(plan.templates()),
    "model": lambda: models.minilm_folder() and sections.MINILM,
    "language model": language_model,
    "output folder": writable,
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
