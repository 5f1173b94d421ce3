"""The executed pages and the texts as one static site; slides of the short path.

Nothing is run, the notebooks' stored outputs are shown; nothing is fetched by a reader.
"""

import json
import posixpath
import re
import shutil
from html import unescape
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Any

from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell, new_notebook

from nbutils.core.errors import LabError
from nbutils.core.files import atomic
from nbutils.core.settings import ROOT
from nbutils.pages import index, source
from nbutils.pages.execute import BONUS, PAGES

TEMPLATES = Path(__file__).parent / "templates"
NOTEBOOKS = [f"notebooks/{name}.ipynb" for name in sorted(PAGES + BONUS)]
TEXTS = ["docs/teaching.md", "README.md"]
"""Texts of the way from page to page; others are reached by links."""


def build(out: Path) -> list[str]:
    """Write the site to OUT, whole or not at all; returns its pages' paths.

    Each file keeps its place in the project, and what a page links to comes along.
    LabError names a page and its link that leads nowhere.
    """
    way = ["index.md", *NOTEBOOKS, *TEXTS]
    titles = {path: index.title(_read(path)) for path in way}
    steps = list(pairwise(way))
    beside = {"Before": {to: path for path, to in steps}, "Next": dict(steps)}
    template = index.templates(TEMPLATES).get_template("site.html.j2")
    pages: list[str] = []
    sections: list[dict[str, str]] = []
    with atomic(Path(ROOT, out)) as made:
        todo = list(way)
        for path in todo:  # grows by what the pages link to
            to, up = made / _shown(path), "../" * path.count("/")
            to.parent.mkdir(parents=True, exist_ok=True)
            if not path.endswith((".ipynb", ".md")):
                shutil.copyfile(ROOT / path, to)
                continue
            values = index.content(_read(path))
            linked = _follow_all(values["cells"], path)
            todo += [link for link in dict.fromkeys(linked) if link not in todo]
            near = [
                (word, up + _shown(other[path]), titles[other[path]])
                for word, other in beside.items()
                if path in other
            ]
            index.write_html(to, template, **values, up=up, near=near)
            pages.append(_shown(path))
            if path != "index.md":  # which only repeats what pages say
                sections += _sections(values, pages[-1])
        listed = json.dumps(sections, ensure_ascii=False)
        (made / "sections.js").write_text(f"const SECTIONS = {listed};\n", "utf-8")
        shutil.copyfile(TEMPLATES / "search.js", made / "search.js")
        check_links(made)
    return pages


def _shown(path: str) -> str:
    """Where a file of the project stands in the site."""
    return re.sub(r"\.(ipynb|md)$", ".html", path)


def _read(path: str) -> NotebookNode:
    """A notebook, or a text as a notebook of one cell; the index is made here."""
    if path.endswith(".ipynb"):
        return source.load(ROOT / path)
    text = _index() if path == "index.md" else (ROOT / path).read_text("utf-8")
    return new_notebook(cells=[new_markdown_cell(text)])


# -- the index -------------------------------------------------------------------------


def _index() -> str:
    """The site's first page as Markdown: what each page teaches, and its minutes."""
    lines = [
        "# Hard negatives lab, to read",
        "Six pages on hard negatives for text embeddings, executed: read them here, "
        "with nothing installed. The [README](README.md) says how to run them, "
        "[Teaching with this lab](docs/teaching.md) how to lead a session. Formulas, "
        "figures and search need no network.",
        "",
        "| page | you will be able to | min |",
        "|---|---|---|",
    ]
    for path in NOTEBOOKS:
        head = source.load(ROOT / path).cells[0].source
        title, able, minutes = outline(head)
        lines.append(f"| [{title}]({path}) | {able} | {minutes} |")
    return "\n".join(lines)


def outline(head: str) -> tuple[str, str, str]:
    """(title, what a reader will be able to do, minutes) of a page's first cell."""
    head = re.sub(r"\[([^]]+)\]\([^)]*\)", r"\1", head)  # links hold on their page only
    rows = dict(re.findall(r"^\| ([^|]+?) \| (.+?) \|$", head, re.MULTILINE))
    listed = head.partition("You will be able to")[2].strip().split("\n\n")[0]
    points = re.sub(r"^- ", "", listed, flags=re.MULTILINE)
    able = rows.get("you will be able to", " ".join(points.split()).rstrip("."))
    minutes = rows.get("in class", rows.get("minutes", ""))
    return head.splitlines()[0].removeprefix("# "), able, re.match(r"\d*", minutes)[0]


# -- links -----------------------------------------------------------------------------

LINK = re.compile(r'\b(href|src)="([^"]*)"')
PLACE = re.compile(r'\bid="([^"]*)"')
ELSEWHERE = re.compile(r"[a-z]+:|//")


def _follow_all(cells: list[NotebookNode], path: str) -> list[str]:
    """Lead the links of a page's texts and outputs into the site.

    Returns the files of the project that they lead to. LabError names a link to none.
    """
    linked: list[str] = []

    def lead(match: re.Match) -> str:
        link = unescape(match[2])
        to, mark, anchor = link.partition("#")
        if ELSEWHERE.match(link) or not to:
            return match[0]
        there = posixpath.normpath(posixpath.join(posixpath.dirname(path), to))
        if there.startswith("..") or not (ROOT / there).is_file():
            raise LabError(f"{path}: its link to {link!r} leads nowhere: mend it there")
        linked.append(there)
        return f'{match[1]}="{_shown(to)}{mark}{anchor}"'

    for cell in cells:
        cell.html = LINK.sub(lead, cell.html)
        for output in cell.get("outputs", []):
            if "text/html" in (data := output.get("data", {})):
                data["text/html"] = LINK.sub(lead, data["text/html"])
    return linked


def check_links(folder: Path) -> None:
    """LabError for a link within the site to no file, or to no place of its page."""
    folder = folder.resolve()
    pages = {path: path.read_text("utf-8") for path in folder.rglob("*.html")}
    places = {path: {*PLACE.findall(page)} for path, page in pages.items()}
    for path, page in pages.items():
        for link in (unescape(link) for _, link in LINK.findall(page)):
            to, _, anchor = link.partition("#")
            there = (path.parent / to).resolve() if to else path
            broken = anchor and there in pages and anchor not in places[there]
            if not ELSEWHERE.match(link) and (broken or not there.is_file()):
                name = path.relative_to(folder)
                raise LabError(f"{name}: its link to {link!r} leads nowhere")


# -- search ----------------------------------------------------------------------------


def _sections(values: dict[str, Any], page: str) -> list[dict[str, str]]:
    """What search knows: the text and code below each heading, and where it stands."""
    title = values["title"]
    sections = [{"title": title, "heading": "", "link": page, "text": ""}]
    for cell in values["cells"]:
        above, *parts = re.split(r'<h\d id="([^"]+)">(.*?)</h\d>', cell.html)
        sections[-1]["text"] += f" {_plain(above)}"
        for anchor, found, below in zip(*[iter(parts)] * 3, strict=True):
            heading = "" if _plain(found) == title else _plain(found)
            place = {"title": title, "heading": heading, "link": f"{page}#{anchor}"}
            sections.append({**place, "text": _plain(below)})
        if cell.cell_type == "code":
            sections[-1]["text"] += f" {cell.source}"
    for section in sections:
        section["text"] = " ".join(section["text"].split())
    return sections


def _plain(html: str) -> str:
    """The text of HTML; words of one line, formula or piece of code stay together."""
    blocks = r"</?(p|div|li|[ou]l|t[drh]|table|h\d|br|pre|summary|details)\b[^>]*>"
    return unescape(re.sub(r"<[^>]*>", "", re.sub(blocks, " ", html)))


# -- slides ----------------------------------------------------------------------------


def slides(out: Path, tag: str) -> list[Path]:
    """Write OUT/NAME.html for each page with cells of the tag; returns the paths.

    A slide begins at each text; code and outputs follow. LabError for an unknown tag.
    """
    template = index.templates(TEMPLATES).get_template("slides.html.j2")
    made = []
    for path in NOTEBOOKS:
        page = source.load(ROOT / path)
        page.cells = [c for c in page.cells if tag in c.metadata.get("tags", [])]
        if page.cells:
            made.append(Path(ROOT, out, f"{PurePosixPath(path).stem}.html"))
            index.write_html(made[-1], template, **index.content(page))
    if not made:
        raise LabError(f"no cell of any page is tagged {tag!r}; the short path: lab90")
    return made
