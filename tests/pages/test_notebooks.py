"""The committed pages: sound, fresh, in the style of the house, equal to nbutils."""

from __future__ import annotations

import ast
import re

import pytest
from conftest import PARAMETERS

from nbutils.core.settings import ROOT
from nbutils.pages.source import (
    alternative_texts,
    check_fresh,
    check_outputs,
    check_source,
    code_cells,
    label,
    load,
    yours,
)

REQUIRED = {
    "02_graded_negative_synthesis": ["ladder"],
    "03_positive_aware_mining": ["ceiling", "draw_keys"],
    "04_anchor_token_attention": ["ata_weights"],
    "05_qlora_curriculum_training": ["level_order", "info_nce", "training_step"],
}
"""The mechanisms that a page must write out, with the same body as the package's."""

VOLATILE = re.compile(r"(?<![\w.:/~…-])/(?:[\w.+-]+/)+[\w.+-]|\b[A-Z]:\\\w")
"""An absolute path of a file system; addresses and relative paths are none."""


PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(params=PATHS, scope="module", ids=lambda path: path.stem)
def path(request):
    if remark := yours(request.param):
        pytest.skip(remark)
    return request.param


@pytest.fixture(scope="module")
def name(path) -> str:
    return path.stem


@pytest.fixture(scope="module")
def page(path):
    return load(path)


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
    outputs = [output for _, cell in code_cells(page) for output in cell.outputs]
    assert any(map(alternative_texts, outputs)), "a page shows at least one figure"


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
    assert whole.count("<summary>Hint") >= 2, "no two exercises with hints"
    assert "\n> " in whole, "no claim of a paper as a block quote"


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
