"""The committed pages: sound, fresh, in the style of the house, equal to nbutils."""

import ast
import re
from functools import cache

from conftest import PARAMETERS

from nbutils import checks
from nbutils.core.settings import ROOT
from nbutils.pages.source import code_cells, label, tags

REQUIRED = {
    "02_graded_negative_synthesis": ["ladder"],
    "03_positive_aware_mining": ["ceiling", "draw_keys"],
    "04_anchor_token_attention": ["ata_weights"],
    "05_qlora_curriculum_training": ["level_order", "info_nce", "training_step"],
}
"""The mechanisms that a page must write out, with the same body as the package's."""

VOLATILE = re.compile(r"(?<![\w.:/~…-])/(?:[\w.+-]+/)+[\w.+-]|\b[A-Z]:\\\w")
"""An absolute path of a file system; addresses and relative paths are none."""


def code(page) -> list[str]:
    return [cell.source for _, cell in code_cells(page)]


def test_the_page_may_be_run_and_has_whole_outputs_of_its_code(path):
    assert checks.page(path.stem).endswith(" kB")


def test_outputs_hold_no_warnings_and_no_paths_of_a_machine(page):
    for number, cell in code_cells(page):
        for output in cell.outputs:
            plain = output.get("data", {}).get("text/plain", "")
            text = f"{output.get('text', '')}{plain}"
            where = f"{label(number, cell)}: {text[:200]}"
            assert output.get("name") != "stderr", where
            assert not VOLATILE.search(text) and " object at 0x" not in text, where


def test_absolute_paths_are_seen_wherever_they_point():
    for text in ("in /srv/lab/x", "'/a/b'", "[/var/t-1/c.py:3]", "C:\\Users"):
        assert VOLATILE.search(text), text
    for text in (
        "runs/workshop/x", "https://a.org/b/c", "see ../data/x", "~/a/b", "and/or/not",
        "1 / 2 / 3", "health/mgh/sts/0", "/", "a …/b/c",
    ):  # fmt: skip
        assert not VOLATILE.search(text), text


def test_the_page_follows_the_skeleton(page, path):
    text = [cell.source for cell in page.cells if cell.cell_type == "markdown"]
    whole, number = "\n".join(text), path.stem.split("_")[0]
    (title,) = re.findall(r"^# .+$", whole, re.MULTILINE)
    assert text[0].startswith(title) and re.match(rf"# {number} · \w", title)
    assert re.search(r"^\|.*\|$", text[0], re.MULTILINE), "no table in the first cell"
    tagged = next(cell.source for cell in page.cells if "parameters" in tags(cell))
    bare = "\n".join(line.split("  #")[0] for line in tagged.splitlines())
    assert bare == PARAMETERS
    assert "pages.describe_machine()" in "\n".join(code(page)[:2])
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


@cache
def kept() -> dict[str, list[str]]:
    """Name to bare bodies of every public function of the rooms with mechanisms."""
    found: dict[str, list[str]] = {}
    for path in (ROOT / "nbutils").glob("*/*.py"):
        if path.parent.name not in ("core", "pages"):
            for name, body in functions(path.read_text()).items():
                found.setdefault(name, []).append(body)
    return found


def test_a_function_shown_is_the_one_that_is_kept(page, path):
    ours, theirs = functions("\n".join(code(page))), kept()
    assert len(theirs) > 100
    for function, body in ours.items():
        if function in theirs:
            assert body in theirs[function], f"{function}() differs from nbutils"
    for function in REQUIRED.get(path.stem, ()):
        assert function in theirs, f"nbutils has no {function}()"
        assert function in ours, f"{path.stem} does not show {function}()"


def test_only_docstrings_and_annotations_are_ignored():
    same = "def f(a, b=1):\n    c = a\n    return c + b"
    told = same.replace("(a, b=1):", '(a: int, b=1) -> int:\n    """Doc."""')
    assert functions(told.replace("c =", "c: int =")) == functions(same)
    assert functions(same) != functions(same.replace("b=1", "b=2"))
