"""The committed pages: sound, fresh, in the style of the house, equal to nbutils."""

from __future__ import annotations

import ast
import re
import statistics

import pytest
from conftest import PARAMETERS

from nbutils.core.settings import ROOT
from nbutils.pages.source import (
    check_fresh,
    check_outputs,
    check_source,
    code_cells,
    label,
    load,
)

REQUIRED = {
    "02_graded_negative_synthesis": ["ladder"],
    "03_positive_aware_mining": ["ceiling"],
    "04_anchor_token_attention": ["ata_weights"],
    "05_qlora_curriculum_training": ["level_order", "info_nce", "training_step"],
}
"""The mechanisms that a page must write out, with the same body as the package's."""

VOLATILE = re.compile(r"(?<![\w.:/~…-])/(?:[\w.+-]+/)+[\w.+-]|\b[A-Z]:\\\w")
"""An absolute path of a file system; addresses and relative paths are none."""


WRITTEN = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=WRITTEN, scope="module")
def name(request) -> str:
    return request.param


@pytest.fixture(scope="module")
def page(name):
    return load(ROOT / "notebooks" / f"{name}.ipynb")


def code(page) -> list[str]:
    return [cell.source for _, cell in code_cells(page)]


def prose(page) -> list[str]:
    return [cell.source for cell in page.cells if cell.cell_type == "markdown"]


# -- outputs ---------------------------------------------------------------------------


def test_the_page_may_be_run(page, name):
    check_source(page, name)


def test_outputs_are_those_of_this_code(page):
    check_fresh(page)


def test_outputs_are_complete_small_and_have_alternative_text(page):
    check_outputs(page)
    assert any(
        kind.startswith("image/")
        for _, cell in code_cells(page)
        for output in cell.outputs
        for kind in output.get("data", {})
    ), "a page shows at least one figure"


def test_outputs_hold_no_warnings_and_no_paths_of_a_machine(page):
    for number, cell in code_cells(page):
        for output in cell.outputs:
            text = str(output.get("text", "")) + str(
                output.get("data", {}).get("text/plain", "")
            )
            where = label(number, cell)
            assert output.get("name") != "stderr", f"{where}: {text[:200]}"
            assert not VOLATILE.search(text), f"{where}: {text[:200]}"
            assert " object at 0x" not in text, f"{where}: {text[:200]}"


def test_absolute_paths_are_seen_wherever_they_point():
    for text in ("in /srv/lab/x", "'/a/b'", "[/var/t-1/c.py:3]", "C:\\Users"):
        assert VOLATILE.search(text), text
    for text in (
        "runs/workshop/x", "https://a.org/b/c", "see ../data/x", "~/a/b", "and/or/not",
        "1 / 2 / 3", "health/mgh/sts/0", "/", "a …/b/c",
    ):  # fmt: skip
        assert not VOLATILE.search(text), text


# -- the page's order and style --------------------------------------------------------


def test_the_page_follows_the_skeleton(page, name):
    text = prose(page)
    titles = [h for t in text for h in re.findall(r"^# .+$", t, re.MULTILINE)]
    assert len(titles) == 1 and text[0].startswith(titles[0])
    assert re.match(rf"# {name.split('_')[0]} · \w", titles[0]), (
        "the title carries the number"
    )
    assert re.search(r"^\|.*\|$", text[0], re.MULTILINE), "no table in the first cell"
    sources = code(page)
    tagged = [c for c in page.cells if "parameters" in c.metadata.get("tags", [])]
    bare = "\n".join(line.split("  #")[0] for line in tagged[0].source.splitlines())
    assert bare == PARAMETERS
    assert "pages.describe_machine()" in "\n".join(sources[:2])
    whole = "\n".join(text)
    for phrase in ("Predict first", "In this notebook we", "differs from the paper"):
        assert phrase in whole, f"no {phrase!r}"
    assert re.search(r"^\W*Next\b", "\n".join(text[-3:]), re.MULTILINE)
    assert "\n> " in whole, "no claim of a paper as a block quote"


def test_there_are_two_exercises_with_hints_and_stubs_that_pass_headless(page):
    assert sum(text.count("<details") for text in prose(page)) >= 2
    stubs = [
        node.name
        for source in code(page)
        for node in ast.parse(source).body
        if isinstance(node, ast.FunctionDef)
        and any(
            isinstance(inner, ast.Raise) and "NotImplementedError" in ast.unparse(inner)
            for inner in node.body
        )
    ]
    assert len(stubs) >= 2
    assert any("except NotImplementedError" in s or "check(" in s for s in code(page))


def test_code_cells_are_short_and_narrow(page):
    lines = [[x for x in s.splitlines() if x.strip()] for s in code(page)]
    lengths = sorted(len(cell) for cell in lines)
    assert statistics.median(lengths) <= 8, lengths
    assert statistics.quantiles(lengths, n=10)[-1] <= 25, lengths
    wide = [x for cell in lines for x in cell if len(x) > 88]
    assert not wide


def words_of_prose(text: str) -> int:
    """Words of running prose: no headings, tables, lists, quotes, hints or formulas."""
    text = re.sub(r"<details.*?</details>|\$\$.*?\$\$|```.*?```", "", text, flags=re.S)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    count, in_list = 0, False
    for line in text.splitlines():
        item = re.match(r"\s*(?:[-*+]|\d+[.)])\s", line) is not None
        in_list = item or (in_list and line.strip() != "")
        if not (in_list or re.match(r"\s*(?:#|\||>)", line)):
            count += len(re.findall(r"\w[\w'’.,/%-]*", line))
    return count


def parts(text: str) -> list[str]:
    """A cell's parts, each begun by a heading or a bold lead such as **Next.**"""
    return re.split(r"\n(?=#+ |\*\*[A-Z])", text)


def test_prose_is_short(page):
    found = [part for text in prose(page)[1:] for part in parts(text)]
    long = {part[:60]: n for part in found if (n := words_of_prose(part)) > 40}
    assert not long


def test_words_of_prose_leaves_out_what_is_not_prose():
    text = (
        "## A heading here\n\nFour words of prose. And two.\n\n| a | b |\n|---|---|\n"
        "- an item\n  that goes on\n\n> a claim\n\n<details>\nhint\n</details>\n$$x$$"
    )
    assert words_of_prose(text) == 6


# -- page ≡ module ---------------------------------------------------------------------


class Bare(ast.NodeTransformer):
    """Removes docstrings and annotations; what is left is what a function does."""

    def visit_FunctionDef(self, node):
        self.generic_visit(node)
        if ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
        node.returns = None
        return node

    def visit_arg(self, node):
        node.annotation = None
        return node

    def visit_AnnAssign(self, node):
        self.generic_visit(node)
        if node.value is None:
            return None
        return ast.Assign(targets=[node.target], value=node.value)


def functions(source: str) -> dict[str, str]:
    """Name to bare body of a source's public top-level functions."""
    found = [n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef)]
    return {
        node.name: ast.unparse(ast.fix_missing_locations(Bare().visit(node)))
        for node in found
        if not node.name.startswith("_")
    }


def kept() -> dict[str, list[str]]:
    """Name to bare bodies of every public function of the rooms with mechanisms."""
    found: dict[str, list[str]] = {}
    for path in (ROOT / "nbutils").glob("*/*.py"):
        if path.parent.name not in ("core", "pages"):
            for name, body in functions(path.read_text()).items():
                found.setdefault(name, []).append(body)
    return found


def shown(page) -> dict[str, str]:
    return {k: v for source in code(page) for k, v in functions(source).items()}


def test_a_function_shown_is_the_one_that_is_kept(page, name):
    ours, theirs = shown(page), kept()
    assert len(theirs) > 100
    for function, body in ours.items():
        if function in theirs:
            assert body in theirs[function], f"{function}() differs from nbutils"
    for function in REQUIRED.get(name, ()):
        assert function in theirs, f"nbutils has no {function}()"
        assert function in ours, f"{name} does not show {function}()"


def test_only_docstrings_and_annotations_are_ignored():
    first = (
        'def f(a: int, b=1) -> int:\n    """Doc."""\n    c: int = a\n    return c + b'
    )
    same = "def f(a, b=1):\n    c = a\n    return c + b"
    other = "def f(a, b=2):\n    c = a\n    return c + b"
    assert functions(first) == functions(same)
    assert functions(first) != functions(other)
