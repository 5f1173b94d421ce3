"""The pages' exercises: a solution, the usual mistakes, and a check that knows both.

A page gives the task, hints and a stub, and ends with `check(stub)`. Beside it, in
`exercises/page_NN.py`, stand the solution and the usual mistakes as functions of the
stub's name: an answer is right where it does as the solution does on every case, and
gets a mistake's hint where it does as that mistake does. So one source gives the check,
its own test and the notebook of solutions.
"""

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Exercise:
    """A solution, the arguments it is tried on, and mistakes by their hint.

    `cases` holds one tuple of arguments a trial; together they must tell the solution
    from every mistake and the mistakes from each other.
    """

    solution: Callable[..., Any]
    cases: Sequence[tuple]
    mistakes: Mapping[str, Callable[..., Any]] = field(default_factory=dict)

    def verdict(self, answer: Callable[..., Any]) -> str:
        """One line: right, not tried yet, the hint of a usual mistake, or what differs.

        Whatever the answer raises becomes a sentence.
        """
        wanted = [_shot(self.solution, case) for case in self.cases]
        try:
            given = [_shot(answer, case) for case in self.cases]
        except NotImplementedError:
            return "not tried yet"
        except (Exception, SystemExit) as error:
            return f"not yet: it stops with {type(error).__name__}: {error}"
        try:
            return self._compared(given, wanted)
        except Exception:  # an array of another library, a number without end
            kind = type(given[0]).__name__
            return f"not yet: it gives a {kind} that cannot be compared"

    def _compared(self, given: list, wanted: list) -> str:
        if all(map(_alike, given, wanted)):
            return "right"
        for hint, mistake in self.mistakes.items():
            if all(map(_alike, given, [_shot(mistake, case) for case in self.cases])):
                return f"a usual mistake: {hint}"
        return next(
            _difference(case, got, want)
            for case, got, want in zip(self.cases, given, wanted, strict=True)
            if not _alike(got, want)
        )


def check(answer: Callable[..., Any]) -> None:
    """Print the verdict on an answer to the exercise of its name."""
    name = getattr(answer, "__name__", "")
    known = EXERCISES.get(name)
    no_such = f"no exercise is called {name!r}: keep the stub's name"
    print(known.verdict(answer) if known else no_such)


def _shot(function: Callable[..., Any], case: tuple) -> Any:
    given = function(*deepcopy(case))  # an answer may change what it is given
    return given.detach() if hasattr(given, "detach") else given


def _alike(got: Any, want: Any) -> bool:
    if isinstance(want, str | bool | set | type(None)) or got is None:
        return type(got) is type(want) and got == want
    try:
        numbers, wanted = np.asarray(got, float), np.asarray(want, float)
    except (TypeError, ValueError):  # texts, dictionaries, lists of several lengths
        if isinstance(want, dict) and isinstance(got, dict):
            got, want = list(got.items()), list(want.items())
        if not isinstance(want, list | tuple):
            return type(got) is type(want) and str(got) == str(want)
        same = isinstance(got, list | tuple | np.ndarray) and len(got) == len(want)
        return same and all(map(_alike, got, want))
    same = numbers.shape == wanted.shape
    return same and np.allclose(numbers, wanted, rtol=0, atol=1e-6, equal_nan=True)


def _difference(case: tuple, got: Any, want: Any) -> str:
    """What to look at: nothing given back, another shape, or a value."""
    if got is None:
        return "not yet: it gives nothing back, a `return` is missing"
    try:
        given, wanted = np.shape(got), np.shape(want)
    except ValueError:  # lists of several lengths
        given, wanted = (), ()
    if given != wanted:
        return f"not yet: the shape is {given}, it should be {wanted}"
    shown = ", ".join(_short(value) for value in case)
    return f"not yet: for {shown} it gives {_short(got)}"


def _short(value: Any) -> str:
    plain = isinstance(value, list | tuple | dict | str)
    text = str(value) if plain else np.array2string(np.asarray(value), precision=4)
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def _all() -> dict[str, Exercise]:
    found = {}
    for module in pkgutil.iter_modules(__path__):
        page = importlib.import_module(f"{__name__}.{module.name}")
        found |= {e.solution.__name__: e for e in page.EXERCISES}
    return found


EXERCISES = _all()
