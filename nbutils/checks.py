"""Is everything that a run needs here and whole? One line per check, without running.

Each check is a function that raises LabError for a fault and returns a remark.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial

from nbutils.core import fields, profiles, sections, settings
from nbutils.core.errors import LabError
from nbutils.core.files import verify
from nbutils.core.settings import DATA, ROOT
from nbutils.pages.execute import PAGES, find
from nbutils.pages.source import (
    check_fresh,
    check_outputs,
    check_source,
    load,
    yours,
)


def data() -> str:
    """Every file that a SHA256SUMS under data/ lists is there, unchanged."""
    folders = sorted(path.parent for path in DATA.rglob("SHA256SUMS"))
    if not folders:
        raise LabError("data/ holds no SHA256SUMS: restore it with 'git checkout data'")
    for folder in folders:
        verify(folder)
    return ", ".join(str(folder.relative_to(ROOT)) for folder in folders)


def prompts() -> str:
    """The prompt templates are those that the recorded answers belong to."""
    from nbutils.synthesis import replies

    return ", ".join(replies.templates())


def model() -> str:
    """MiniLM's files are on this machine and are the official ones."""
    from nbutils.encoder import models

    models.minilm_folder()
    return sections.MINILM


def language_model() -> str:
    """SmolLM2's files are on this machine, as they were written."""
    from nbutils.encoder import fetch

    fetch.verify_fetched()
    return sections.SMOLLM2


def table() -> str:
    """Every profile resolves, and every setting has a text and a source."""
    for profile in profiles.PROFILES:
        settings.resolve(profile)
    for row in settings.table():
        if not row["text"] or not row["source"]:
            raise LabError(f"setting {row['name']!r} has no text or no source")
    return f"{len(fields.PLACES)} settings"


def writable() -> str:
    """runs/ can be written to."""
    folder = ROOT / "runs"
    try:
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            return "runs"
    except OSError as error:
        raise LabError(f"{folder} cannot be written to: {error.strerror}") from None


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
    "settings": table,
    "data": data,
    "prompts": prompts,
    "model": model,
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
