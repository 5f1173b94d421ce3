"""Reads executed pages as a student would, and says where they stop being lessons.

`python tests/pages/reading.py notebooks/*.ipynb` prints what it finds, and exits with 1
if that is anything.
"""

from __future__ import annotations

import re
import statistics
import sys
from pathlib import Path

import nbformat
from nbformat import NotebookNode

CELLS, MEDIAN_LINES, LONG_LINES, WORDS = 75, 8, 25, 60
FORMULAS = ["InfoNCE", "ceiling|PercPos", "ATA", "softmax|Gumbel", "NDCG", "Holm"]
"""What needs a formula on some page: the word stands in its cell or the one above."""
ANSWER = re.compile(r"<details>\s*<summary>\s*Answer\s*</summary>")
CUT = re.compile(r"(?:…|\.\.\.)\s*</t[dh]>")
CUT_PLAIN = re.compile(r"(?:…|\.\.\.)(?=  |$)", re.MULTILINE)


def figures_told(page: NotebookNode) -> list[str]:
    """A figure is followed by a cell that begins with a sentence on it."""
    return [
        f"cell {number}: no sentence follows the figure"
        for number, cell in enumerate(page.cells, 1)
        if any(map(shows_figure, cell.get("outputs", [])))
        and not (number < len(page.cells) and has_sentence(page.cells[number]))
    ]


def shows_figure(output: NotebookNode) -> bool:
    data = output.get("data", {})
    return "image/png" in data or "<img" in data.get("text/html", "")


def has_sentence(cell: NotebookNode) -> bool:
    text = running_text(cell.source) if cell.cell_type == "markdown" else ""
    return re.search(r"\w+\W+\w+\W+\w.*[.!?:;]", text) is not None


def predictions_answered(page: NotebookNode) -> list[str]:
    """A prediction asked for has a folded answer before its section ends."""
    faults = []
    for number, cell in enumerate(page.cells, 1):
        texts = [c.source for c in page.cells[number:] if c.cell_type == "markdown"]
        later = re.split(r"^## ", "\n".join(texts), maxsplit=1, flags=re.MULTILINE)[0]
        for after in cell.source.split("**Predict first")[1:]:
            if cell.cell_type == "markdown" and not ANSWER.search(f"{after}\n{later}"):
                faults.append(f"cell {number}: the prediction has no folded answer")
    return faults


def texts_whole(page: NotebookNode) -> list[str]:
    """No cell of a table ends in an ellipsis, neither does a line of its text form."""
    faults = []
    for number, cell in enumerate(page.cells, 1):
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            plain = "" if "text/html" in data else data.get("text/plain", "")
            if CUT.search(data.get("text/html", "")) or CUT_PLAIN.search(plain):
                faults.append(f"cell {number}: a table's text is cut: use pages.table")
    return faults


def page_short(page: NotebookNode) -> list[str]:
    """At most CELLS cells."""
    return [f"{len(page.cells)} cells, over {CELLS}"] * (len(page.cells) > CELLS)


def code_short(page: NotebookNode) -> list[str]:
    """Code cells have few lines: their median and their 90th percentile are bounded."""
    sources = [c.source for c in page.cells if c.cell_type == "code" and c.source]
    lines = [sum(bool(x.strip()) for x in source.splitlines()) for source in sources]
    if len(lines) < 2:
        return []
    found = {
        "median": (statistics.median(lines), MEDIAN_LINES),
        "90th percentile": (statistics.quantiles(lines, n=10)[-1], LONG_LINES),
    }
    return [
        f"code cells have a {name} of {value:g} lines, over {bound}"
        for name, (value, bound) in found.items()
        if value > bound
    ]


def running_text(text: str) -> str:
    """Prose without headings, tables, lists, quotes, what is folded, formulas."""
    text = re.sub(r"<details.*?</details>|\$\$.*?\$\$|```.*?```", "", text, flags=re.S)
    text = re.sub(r"\]\([^)]*\)", "]", text)
    kept, in_list = [], False
    for line in text.splitlines():
        item = re.match(r"\s*(?:[-*+]|\d+[.)])\s", line) is not None
        in_list = item or (in_list and line.strip() != "")
        if not (in_list or re.match(r"\s*(?:#|\||>)", line)):
            kept.append(line)
    return "\n".join(kept)


def prose_short(page: NotebookNode) -> list[str]:
    """A text cell has at most WORDS words of running text."""
    texts = {n: c.source for n, c in enumerate(page.cells, 1) if c.cell_type != "code"}
    word = r"\w[\w'’.,/%-]*"
    counts = [(n, len(re.findall(word, running_text(t)))) for n, t in texts.items()]
    return [
        f"cell {n}: {count} words, over {WORDS}" for n, count in counts if count > WORDS
    ]


def quotes_marked(page: NotebookNode) -> list[str]:
    """A quoted claim says how surely it is known; a quoted file of ours need not."""
    mark = re.compile(r"\*\*\[[TS2]\]\*\*|`data/")
    return [
        f"cell {number}: a quotation without its mark"
        for number, cell in enumerate(page.cells, 1)
        if cell.cell_type == "markdown"
        for quote in re.findall(r"(?:^>.*\n?)+", cell.source, re.MULTILINE)
        if not mark.search(quote)
    ]


RULES = [figures_told, predictions_answered, texts_whole, quotes_marked]
RULES += [page_short, code_short, prose_short]


def formulas_missing(pages: list[NotebookNode]) -> list[str]:
    """The mechanisms of FORMULAS that no page writes as a formula."""
    shown = []
    for page in pages:
        texts = [c.source if c.cell_type == "markdown" else "" for c in page.cells]
        pairs = zip(["", *texts], texts, strict=False)
        shown += [f"{above}\n{text}" for above, text in pairs if "$$" in text]
    return [
        f"no page has a formula for {word}"
        for word in FORMULAS
        if not any(re.search(rf"\b({word})", text, re.IGNORECASE) for text in shown)
    ]


def images_untold(html: str) -> list[str]:
    """The images of an exported page that have no alternative text."""
    tags = re.findall(r"<img\b[^>]*>", html)
    return [tag[-80:] for tag in tags if not re.search(r'\balt="[^"]+', tag)]


def formulas_broken(html: str) -> list[str]:
    """The formulas of an exported page that show a command of LaTeX as a letter."""
    found = re.findall(r"<math.*?</math>", html, re.DOTALL)
    return [math[-80:] for math in found if re.search(r">\\|<mo>&#x0002A;", math)]


def main(paths: list[str]) -> int:
    pages = {Path(path).stem: nbformat.read(path, as_version=4) for path in paths}
    found = {name: [f for rule in RULES for f in rule(p)] for name, p in pages.items()}
    faults = [f"{name}: {fault}" for name, some in found.items() for fault in some]
    faults += formulas_missing(list(pages.values()))
    print("\n".join(faults) or "nothing found")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
