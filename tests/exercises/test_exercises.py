"""Every exercise tells right from wrong, and the pages' stubs are those exercises."""

import ast

import numpy as np
import pytest
import torch

import exercises
from nbutils.core.settings import ROOT
from nbutils.pages.solutions import fill_in, write_solutions
from nbutils.pages.source import code_cells, load

PAGES = sorted((ROOT / "notebooks").glob("*.ipynb"))
ALL = exercises.EXERCISES


@pytest.fixture(params=ALL)
def exercise(request):
    return ALL[request.param]


def stub(*arguments):
    raise NotImplementedError


def test_solutions_mistakes_and_stubs_get_their_verdicts(exercise, capsys):
    exercises.check(exercise.solution)
    assert capsys.readouterr().out == "right\n"
    assert exercise.verdict(stub) == "not tried yet"
    assert exercise.cases and exercise.mistakes
    for hint, mistake in exercise.mistakes.items():
        assert exercise.verdict(mistake) == f"a usual mistake: {hint}"


def test_a_constant_does_not_pass_and_whatever_it_is_gets_a_sentence(exercise):
    own = [exercise.solution(*case) for case in exercise.cases]
    for constant in (None, 0.0, 1, "", True, [], *own):
        said = exercise.verdict(lambda *arguments, constant=constant: constant)
        assert said.startswith(("not yet", "a usual mistake")), said
    grown = [torch.ones(1, requires_grad=True)]
    for constant in (10**400, grown, {"a": 1}, {1}, object(), 1j, "x"):
        said = exercise.verdict(lambda *arguments, constant=constant: constant)
        assert said.startswith("not yet"), said


def test_whatever_goes_wrong_is_said_in_a_sentence(exercise):
    said = exercise.verdict(lambda *arguments: {}["absent"])
    assert said == "not yet: it stops with KeyError: 'absent'"
    assert exercise.verdict(lambda: 1).startswith("not yet: it stops with TypeError")
    assert "it stops with SystemExit" in exercise.verdict(lambda *arguments: exit(1))


@pytest.mark.parametrize(
    ("right", "wrong", "said"),
    [
        (lambda x: [x, 2 * x], lambda x: [x], "shape is (1,), it should be (2,)"),
        (lambda x: [x, 2 * x], lambda x: None, "a `return` is missing"),
        (lambda x: [x, 2 * x], lambda x: [x, 3 * x], "for 1 it gives [1, 3]"),
        (lambda x: x > 1, lambda x: int(x > 1), "for 1 it gives 0"),
        (lambda x: str(x), lambda x: x, "for 1 it gives 1"),
        (lambda x: float("nan"), lambda x: None, "a `return` is missing"),
        (lambda x: ["a", "b"], lambda x: np.array(["a", "c"]), "gives ['a' 'c']"),
        (lambda x: {"a": [x]}, lambda x: {"a": [x + 1]}, "gives {'a': [2]}"),
        (lambda x: [[x], [x, x]], lambda x: [[x], [x, 5]], "gives [[1], [1, 5]]"),
        (lambda x: torch.ones(2), lambda x: torch.zeros(2), "gives [0. 0.]"),
        (lambda x: {x}, lambda x: {x, 9}, "gives {1, 9}"),
    ],
)
def test_what_differs_is_named(right, wrong, said):
    exercise = exercises.Exercise(right, [(1,), (2,)])
    assert exercise.verdict(right) == "right"
    assert said in exercise.verdict(wrong)


def test_rounding_and_gradients_are_no_mistakes():
    exercise = exercises.Exercise(lambda x: np.array([x, 1.0]), [(2.0,)])
    assert exercise.verdict(lambda x: [x + 1e-9, 1]) == "right"
    grown = torch.ones(1, requires_grad=True)
    assert exercise.verdict(lambda x: torch.cat([x * grown, grown])) == "right"


def test_an_answer_that_changes_its_arguments_harms_no_later_trial():
    summed = exercises.Exercise(sum, [([1, 2],)])
    assert summed.verdict(lambda values: values.pop() + values.pop()) == "right"
    assert summed.verdict(sum) == "right"


# -- on the pages ----------------------------------------------------------------------


def checked(page) -> set[str]:
    """The names in a page's calls `check(name)`, by the function of `exercises`."""
    code = "\n".join(cell.source for _, cell in code_cells(page))
    if "from exercises import check" not in code:
        return set()
    calls = [node for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Call)]
    return {node.args[0].id for node in calls if ast.unparse(node.func) == "check"}


def test_every_exercise_is_checked_on_its_page_and_every_check_has_one():
    found = {path.stem: checked(load(path)) for path in PAGES}
    for name, exercise in ALL.items():
        number = exercise.solution.__module__.rsplit("_", 1)[-1]
        on = [page for page, names in found.items() if name in names]
        assert len(on) == 1 and on[0].startswith(number), f"{name} is checked on {on}"
    assert set().union(*found.values()) <= set(ALL)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_with_its_solutions_a_page_says_right(path):
    page = load(path)
    wanted, said = checked(page), fill_in(page)
    assert wanted <= set(said) and set(said.values()) <= {"right\n"}
    for name in said:
        (cell,) = [c for _, c in code_cells(page) if f"def {name}(" in c.source]
        assert "raise NotImplementedError" not in cell.source
        assert [output.text for output in cell.outputs] == ["right\n"]


def test_the_notebook_of_solutions_is_written_beside_the_page(tmp_path):
    (path,) = write_solutions(["06"], tmp_path / "solutions")
    assert path == tmp_path / "solutions" / "06_evaluation.ipynb"
    page, original = load(path), load(PAGES[-1])
    differ = [
        new.source
        for new, old in zip(page.cells, original.cells, strict=True)
        if new.source != old.source
    ]
    assert differ and all("import numpy as np" in source for source in differ)
