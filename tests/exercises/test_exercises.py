"""Every exercise tells right from wrong, and the pages' stubs are those exercises."""

from __future__ import annotations

import ast

import pytest

import exercises
from nbutils.core.settings import ROOT
from nbutils.pages.source import code_cells, load

PAGES = sorted((ROOT / "notebooks").glob("*.ipynb"))
ALL = exercises.EXERCISES


@pytest.fixture(params=ALL)
def exercise(request):
    return ALL[request.param]


def test_there_are_exercises():
    assert ALL and all(e.cases and e.mistakes for e in ALL.values())


def test_the_solution_is_right_and_a_stub_is_not_tried(exercise, capsys):
    exercises.check(exercise.solution)
    assert capsys.readouterr().out == "right\n"

    def stub(*arguments):
        raise NotImplementedError

    assert exercise.verdict(stub) == "not tried yet"


def test_each_usual_mistake_gets_its_own_hint(exercise):
    for hint, mistake in exercise.mistakes.items():
        assert exercise.verdict(mistake) == f"a usual mistake: {hint}"


@pytest.mark.parametrize("value", [None, 0.0, 1, "", True, []])
def test_a_constant_does_not_pass(exercise, value):
    said = exercise.verdict(lambda *arguments: value)
    assert said.startswith(("not yet", "a usual mistake")), said


def test_whatever_goes_wrong_is_said_in_a_sentence(exercise):
    said = exercise.verdict(lambda *arguments: {}["absent"])
    assert said == "not yet: it stops with KeyError: 'absent'"
    assert exercise.verdict(lambda: 1).startswith("not yet: it stops with TypeError")


def test_what_differs_is_named():
    doubled = exercises.Exercise(lambda x: [x, 2 * x], [(1.0,), (2.0,)])
    assert doubled.verdict(lambda x: [x, 2 * x + 1e-9]) == "right"
    assert "the shape is (1,), it should be (2,)" in doubled.verdict(lambda x: [x])
    assert "a `return` is missing" in doubled.verdict(lambda x: None)
    assert "for 1. it gives [1. 3.]" in doubled.verdict(lambda x: [x, 2 * x + 1])
    kinds = exercises.Exercise(lambda x: x > 1, [(1,), (2,)])
    assert kinds.verdict(lambda x: int(x > 1)).startswith("not yet: for 1 it gives 0")


def test_an_answer_that_changes_its_arguments_harms_no_later_trial():
    summed = exercises.Exercise(sum, [([1, 2],)])
    assert summed.verdict(lambda values: values.pop() + values.pop()) == "right"
    assert summed.verdict(sum) == "right"


# -- on the pages ----------------------------------------------------------------------


def checked(page) -> list[str]:
    """The names in a page's calls `check(name)`, by the function of `exercises`."""
    trees = [ast.parse(cell.source) for _, cell in code_cells(page)]
    if not any("from exercises import check" in ast.unparse(tree) for tree in trees):
        return []
    return [
        node.args[0].id
        for tree in trees
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "check"
    ]


def test_every_exercise_is_checked_on_its_page_and_every_check_has_one():
    found = {path.stem: checked(load(path)) for path in PAGES}
    for name, exercise in ALL.items():
        number = exercise.solution.__module__.rsplit("_", 1)[-1]
        on = [page for page, names in found.items() if name in names]
        assert len(on) == 1 and on[0].startswith(number), f"{name} is checked on {on}"
    unknown = {name for names in found.values() for name in names} - set(ALL)
    assert not unknown, f"no exercise of the name {unknown}"
