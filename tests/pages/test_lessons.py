"""The pages read as lessons; and each rule of that sees the fault it is for."""

import re
import statistics
from collections.abc import Iterable, Iterator

from nbformat import NotebookNode
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from nbutils.core.settings import ROOT
from nbutils.pages.index import content, write_page
from nbutils.pages.source import alternative_texts, load, write

CELLS, MEDIAN_LINES, LONG_LINES, WORDS = 75, 8, 25, 60
ANSWER = re.compile(r"<details>\s*<summary>\s*Answer\s*</summary>")
CUT = re.compile(r"(?:…|\.\.\.)\s*</t[dh]>")
CUT_PLAIN = re.compile(r"(?:…|\.\.\.)(?=  |$)", re.MULTILINE)
MARK = re.compile(r"\*\*\[[TS2]\]\*\*|`data/")
LISTED = re.compile(r"\s*(?:[-*+]|\d+[.)])\s")
FORMULAS = ["InfoNCE", "ceiling|PercPos", "ATA", "softmax|Gumbel", "NDCG", "Holm"]
"""What needs a formula on some page: the word stands in its cell or the one above."""


# -- the rules: each yields the numbers of the cells that break it ---------------------


def figures_told(page: NotebookNode) -> Iterator[int]:
    """A figure is followed by a cell that begins with a sentence on it."""
    for number, cell in enumerate(page.cells, 1):
        shown = any(map(shows_figure, cell.get("outputs", [])))
        after = page.cells[number] if number < len(page.cells) else new_code_cell()
        text = running_text(after.source) if after.cell_type == "markdown" else ""
        if shown and not re.search(r"\w+\W+\w+\W+\w.*[.!?:;]", text):
            yield number


def shows_figure(output: NotebookNode) -> bool:
    data = output.get("data", {})
    return "image/png" in data or "<img" in data.get("text/html", "")


def predictions_answered(page: NotebookNode) -> Iterator[int]:
    """A prediction asked for has a folded answer before its section ends."""
    for number, text in texts(page):
        later = "\n".join(after for n, after in texts(page) if n > number)
        later = re.split(r"^## ", later, maxsplit=1, flags=re.MULTILINE)[0]
        for after in text.split("**Predict first")[1:]:
            if not ANSWER.search(f"{after}\n{later}"):
                yield number


def texts(page: NotebookNode) -> list[tuple[int, str]]:
    """(number, text) of each Markdown cell."""
    numbered = enumerate(page.cells, 1)
    return [(n, cell.source) for n, cell in numbered if cell.cell_type == "markdown"]


def tables_whole(page: NotebookNode) -> Iterator[int]:
    """No cell of a table ends in an ellipsis, neither does a line of its text form."""
    for number, cell in enumerate(page.cells, 1):
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            plain = "" if "text/html" in data else data.get("text/plain", "")
            if CUT.search(data.get("text/html", "")) or CUT_PLAIN.search(plain):
                yield number


def quotes_marked(page: NotebookNode) -> Iterator[int]:
    """A quoted claim says how surely it is known; a quoted file of ours need not."""
    for number, text in texts(page):
        quotes = re.findall(r"(?:^>.*\n?)+", text, re.MULTILINE)
        if not all(map(MARK.search, quotes)):
            yield number


def page_short(page: NotebookNode) -> Iterator[int]:
    """At most CELLS cells, and code of few lines in the median and nearly always."""
    sources = [c.source for c in page.cells if c.cell_type == "code" and c.source]
    lines = [sum(bool(x.strip()) for x in source.splitlines()) for source in sources]
    if len(page.cells) > CELLS:
        yield len(page.cells)
    if len(lines) > 1 and statistics.median(lines) > MEDIAN_LINES:
        yield statistics.median(lines)
    if len(lines) > 1 and (most := statistics.quantiles(lines, n=10)[-1]) > LONG_LINES:
        yield most


def prose_short(page: NotebookNode) -> Iterator[int]:
    """A text cell has at most WORDS words of running text."""
    for number, text in texts(page):
        if len(re.findall(r"\w[\w'’.,/%-]*", running_text(text))) > WORDS:
            yield number


def running_text(text: str) -> str:
    """Prose without headings, tables, lists, quotes, what is folded, formulas."""
    text = re.sub(r"<details.*?</details>|\$\$.*?\$\$|```.*?```", "", text, flags=re.S)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    kept, in_list = [], False
    for line in text.splitlines():
        item = LISTED.match(line) is not None
        in_list = item or (in_list and line.strip() != "")
        if not (in_list or re.match(r"\s*(?:#|\||>)", line)):
            kept.append(line)
    return "\n".join(kept)


RULES = [
    figures_told, predictions_answered, tables_whole, quotes_marked, page_short,
    prose_short,
]  # fmt: skip


def formulas_missing(pages: Iterable[NotebookNode]) -> list[str]:
    """The mechanisms of FORMULAS that no page writes as a formula."""
    shown = []
    for page in pages:
        told = [c.source if c.cell_type == "markdown" else "" for c in page.cells]
        pairs = zip(["", *told], told, strict=False)
        shown += [f"{above}\n{text}" for above, text in pairs if "$$" in text]
    found = "\n\n".join(shown)
    return [w for w in FORMULAS if not re.search(rf"\b({w})", found, re.IGNORECASE)]


def formulas_broken(html: str) -> list[str]:
    """The formulas of an exported page that show a command of LaTeX as a letter."""
    found = re.findall(r"<math.*?</math>", html, re.DOTALL)
    return [math[-80:] for math in found if re.search(r">\\|<mo>&#x0002A;", math)]


# -- the pages -------------------------------------------------------------------------


def test_a_page_reads_as_a_lesson(page):
    found = {rule.__doc__: list(rule(page)) for rule in RULES}
    assert not {rule: cells for rule, cells in found.items() if cells}


def test_every_mechanism_has_its_formula():
    pages = map(load, (ROOT / "notebooks").glob("*.ipynb"))
    assert formulas_missing(pages) == []


def test_the_exported_page_tells_every_figure_and_shows_every_formula(page, tmp_path):
    copy = tmp_path / "page.ipynb"
    write(copy, page)
    write_page(copy)
    html = copy.with_suffix(".html").read_text()
    outputs = [output for cell in page.cells for output in cell.get("outputs", [])]
    told = alternative_texts(new_output("display_data", {"text/html": html}))
    assert len(told) == sum(map(shows_figure, outputs)) > 0 and all(told)
    assert formulas_broken(html) == []


# -- the rules themselves --------------------------------------------------------------


def shown(code: str = "code", **data: str) -> NotebookNode:
    """A code cell that shows something: html, plain or png."""
    kinds = {"html": "text/html", "plain": "text/plain", "png": "image/png"}
    data = {kinds[name]: value for name, value in data.items()}
    return new_code_cell(code, outputs=[new_output("display_data", data)])


def long(lines: int) -> NotebookNode:
    return new_code_cell("\n".join(["x = 1"] * lines))


FIGURE, HTML = shown(png="aGk="), shown(html='<img alt="a" src="b">')
TOLD, ASKED = "The share falls with the rank.", "**Predict first.** Which?"
FOLDED = "<details><summary>Answer</summary>\n\nThis one.\n\n</details>"
HINT = "<details><summary>Hint</summary>x</details>"
APART = f"$$ {'x ' * 99} $$\n\n| {'a ' * 99} |\n\n- {'b ' * 99}\n\n"
BROKEN = [
    (figures_told, [FIGURE]), (figures_told, [FIGURE, "## 2. Next"]),
    (figures_told, [HTML, FIGURE, TOLD]), (figures_told, [FIGURE, "| a | b |"]),
    (predictions_answered, [ASKED]), (predictions_answered, [FOLDED, ASKED]),
    (predictions_answered, [ASKED, TOLD, "## 3. Next", FOLDED]),
    (predictions_answered, [f"{ASKED}\n\n{HINT}"]),
    (tables_whole, [shown(html="<td>cut off...</td>")]),
    (tables_whole, [shown(html="<th>cut\u2026 </th>")]),
    (tables_whole, [shown(plain="a  b\n0  cut off...  1\n1  x  2")]),
    (quotes_marked, ["> It gains. (Paper)"]),
    (quotes_marked, ["> One. **[T]**\n\n> Two."]),
    (page_short, ["text"] * 76), (page_short, [long(9)] * 5),
    (page_short, [long(3)] * 8 + [long(40)] * 2), (prose_short, ["word " * 61]),
]  # fmt: skip
KEPT = [
    [FIGURE, TOLD], [HTML, f"## 2. Next\n\n{TOLD}"], [f"{ASKED}\n\n{FOLDED}"],
    [ASKED, FIGURE, TOLD, FOLDED, "## 3. Next"],
    [shown(html="<td>a ... b</td>", plain="cut...")], [shown(plain="from 1 ... to 3")],
    ["> It\n> gains. **[2]**"], ["> Why? (`data/prompts/judge.txt`)"], ["a > b"],
    ["text"] * 75, [long(8)] * 5, [long(3)] * 9 + [long(20)],
    ["word " * 60 + f"\n\n{APART}<details>{'c ' * 99}</details>"],
]  # fmt: skip


def page_of(cells) -> NotebookNode:
    made = [new_markdown_cell(c) if isinstance(c, str) else c for c in cells]
    return new_notebook(cells=made)


def test_a_rule_sees_its_fault_and_no_other():
    for rule, cells in BROKEN:
        found = [other for other in RULES if list(other(page_of(cells)))]
        assert found == [rule], cells
    for cells in KEPT:
        assert not any(list(rule(page_of(cells))) for rule in RULES), cells


def test_a_formula_belongs_to_what_is_named_beside_it():
    named = [page_of([f"The {word.split('|')[0]}:\n$$ x $$"]) for word in FORMULAS]
    assert formulas_missing(named) == []
    assert len(formulas_missing([page_of(["NDCG", "and", "$$ x $$"])])) == 6
    assert len(formulas_missing([page_of(["NDCG is", "$$ x $$"])])) == 5


def test_a_formula_that_kept_its_commands_is_seen():
    for formula, whole in (
        (r"\underset{k}{\text{argmin}}", True),
        (r"\arg\min_k", False),
    ):
        (cell,) = content(page_of([f"$$ {formula} x $$"]))["cells"]
        assert (formulas_broken(cell.html) == []) == whole, formula
