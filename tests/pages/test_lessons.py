"""The pages read as lessons; and the reader of pages sees each fault it is for."""

from __future__ import annotations

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from pages import reading

from nbutils.core.settings import ROOT
from nbutils.pages.index import write_page
from nbutils.pages.source import load, write, yours

PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request):
    if remark := yours(request.param):
        pytest.skip(remark)
    return request.param


def test_a_page_reads_as_a_lesson(path):
    page = load(path)
    found = {rule.__name__: rule(page) for rule in reading.RULES}
    broken = {name: faults for name, faults in found.items() if faults}
    assert not broken


def test_every_mechanism_has_its_formula():
    assert reading.formulas_missing([load(path) for path in PATHS]) == []


def test_the_exported_page_tells_every_figure_and_shows_every_formula(path, tmp_path):
    page, copy = load(path), tmp_path / path.name
    write(copy, page)
    write_page(copy)
    html = copy.with_suffix(".html").read_text()
    outputs = [output for cell in page.cells for output in cell.get("outputs", [])]
    assert html.count("<img") == sum(map(reading.shows_figure, outputs)) > 0
    assert reading.images_untold(html) == []
    assert reading.formulas_broken(html) == []


# -- the reader itself -----------------------------------------------------------------

FIGURE = new_code_cell(
    "run.figure()", outputs=[new_output("display_data", {"image/png": "aGk="})]
)
HTML = FIGURE.copy() | {
    "outputs": [new_output("display_data", {"text/html": '<img alt="a" src="b">'})]
}
TOLD = "The share falls with the rank."
ASKED = "**Predict first.** Which?"
ANSWER = "<details><summary>Answer</summary>\n\nThis one.\n\n</details>"


def table(html: str | None = None, plain: str = ""):
    data = {"text/plain": plain} | ({"text/html": html} if html else {})
    return new_code_cell("frame", outputs=[new_output("display_data", data)])


def long(lines: int):
    return new_code_cell("\n".join(["x = 1"] * lines))


CASES = {
    "figures_told": (
        [[FIGURE], [FIGURE, "## 2. Next"], [HTML, FIGURE, TOLD], [FIGURE, "| a | b |"]],
        [[FIGURE, TOLD], [HTML, f"## 2. Next\n\n{TOLD}"]],
    ),
    "predictions_answered": (
        [[ASKED], [ASKED, FIGURE, "## 3. Next", ANSWER], [ANSWER, ASKED],
         [f"{ASKED}\n\n<details><summary>Hint</summary>x</details>"]],
        [[f"{ASKED}\n\n{ANSWER}"], [ASKED, FIGURE, TOLD, ANSWER, "## 3. Next"]],
    ),
    "texts_whole": (
        [[table("<td>cut off...</td>")], [table("<th>cut\u2026 </th>")],
         [table(plain="a  b\n0  cut off...  1\n1  x  2")]],
        [[table("<td>a ... b</td>", "cut...")], [table(plain="from 1 ... to 3")]],
    ),
    "quotes_marked": (
        [["> It gains. (Paper)"], ["> One. **[T]**\n\n> Two."]],
        [["> It\n> gains. **[2]**"], ["> Why? (`data/prompts/judge.txt`)"], ["a > b"]],
    ),
    "page_short": ([["text"] * 76], [["text"] * 75]),
    "code_short": (
        [[long(9)] * 5, [long(3)] * 8 + [long(40)] * 2],
        [[long(8)] * 5, [long(3)] * 9 + [long(20)]],
    ),
    "prose_short": (
        [["word " * 61]],
        [["word " * 60 + f"\n\n$$ {'x ' * 99} $$\n\n| {'a ' * 99} |\n\n- " + "b " * 99
          + f"\n\n<details>{'c ' * 99}</details>"]],
    ),
}  # fmt: skip
"""For each rule, pages that break it and pages that keep it, as their cells."""


def page_of(cells):
    made = [new_markdown_cell(c) if isinstance(c, str) else c for c in cells]
    return new_notebook(cells=made)


@pytest.mark.parametrize("rule", reading.RULES, ids=lambda rule: rule.__name__)
def test_a_rule_sees_its_fault_and_nothing_else(rule):
    broken, kept = CASES[rule.__name__]
    for cells in broken:
        assert rule(page_of(cells)), cells
    for cells in kept:
        assert rule(page_of(cells)) == [], cells


def test_a_formula_belongs_to_what_is_named_beside_it():
    named = [
        page_of([f"The {word.split('|')[0]}:\n$$ x $$"]) for word in reading.FORMULAS
    ]
    assert reading.formulas_missing(named) == []
    assert len(reading.formulas_missing([page_of(["NDCG", "and", "$$ x $$"])])) == 6
    assert len(reading.formulas_missing([page_of(["NDCG is", "$$ x $$"])])) == 5


def test_an_image_without_text_is_seen():
    assert reading.images_untold('<img src="a" alt="rises"><img alt="falls">') == []
    assert len(reading.images_untold('<img src="a"><img src="b" alt="">')) == 2


def test_a_formula_that_kept_its_commands_is_seen(tmp_path):
    for formula, whole in (
        (r"\underset{k}{\text{argmin}}", True),
        (r"\arg\min_k", False),
    ):
        path = tmp_path / "a.ipynb"
        write(path, page_of([f"$$ {formula} x $$"]))
        write_page(path)
        html = path.with_suffix(".html").read_text()
        assert (reading.formulas_broken(html) == []) == whole, formula


def test_the_program_prints_what_it_finds(tmp_path, capsys):
    write(tmp_path / "a.ipynb", page_of([FIGURE]))
    assert reading.main([str(tmp_path / "a.ipynb")]) == 1
    said = capsys.readouterr().out
    assert "a: cell 1: no sentence follows the figure\n" in said
    assert "no page has a formula for Holm" in said
