"""The one kind of error that a user reads."""

import difflib
from collections.abc import Iterable


class LabError(ValueError):
    """A fault that the user can mend: one line says what is wrong and what to do."""

    def _render_traceback_(self) -> list[str]:
        """What Jupyter shows in place of a traceback."""
        return [f"LabError: {self}"]


def known(kind: str, name: str, names: Iterable[str]) -> str:
    """`name` if it is one of `names`; LabError naming the nearest if not."""
    if name not in names:
        raise LabError(
            f"unknown {kind} {name!r}{nearest(name, names)} (known: {', '.join(names)})"
        )
    return name


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the closest known name, or nothing."""
    match = difflib.get_close_matches(str(name), map(str, known), n=1, cutoff=0.5)
    return f"; did you mean {match[0]!r}?" if match else ""
