"""The one kind of error that a user reads: what was wrong, and what to do."""

from __future__ import annotations

import difflib
from typing import Any


class LabError(Exception):
    """A fault that the user can mend.

    The message is one line that says what was wrong and what to do about it.
    The command line prints it without a traceback and exits with code 1.
    """


def known(kind: str, name: str, names: Any) -> str:
    """`name` if it is one of `names`; LabError naming the nearest if not."""
    if name not in names:
        raise LabError(
            f"unknown {kind} {name!r}{nearest(name, names)} (known: {', '.join(names)})"
        )
    return name


def nearest(name: str, known: Any) -> str:
    """`; did you mean 'x'?` for the closest known name, or nothing."""
    known = [str(k) for k in known]
    match = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""
