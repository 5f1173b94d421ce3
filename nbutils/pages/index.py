"""The static pages of a run: each executed notebook as HTML, and one index of all.

No script and no style is fetched from elsewhere: the pages open without network, also
from a file share.
"""

import re
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
from latex2mathml.converter import convert
from nbformat import NotebookNode

from nbutils.core.files import atomic, read_json
from nbutils.core.profiles import PROFILES
from nbutils.pages.source import alternative_texts, load

PARTS = ("total", "import", "encoding", "training", "other")


def templates(*folders: Path) -> jinja2.Environment:
    """The templates of `folders` and of this room; what is put into them is escaped."""
    own = Path(__file__).parent / "templates"
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader([*folders, own]), autoescape=True
    )


def write_html(path: Path, template: jinja2.Template, **values: Any) -> None:
    """Render a template to a file, whole or not at all."""
    # pandas and Markdown write empty header cells, which name nothing
    html = re.sub(r"<th[^>]*>\s*</th>", "<td></td>", template.render(values))
    with atomic(path) as temporary:
        temporary.write_text(html, encoding="utf-8")


# -- a page --------------------------------------------------------------------------


def write_page(executed: Path) -> None:
    """Render an executed notebook beside itself as NAME.html, figures embedded."""
    template = templates().get_template("page.html.j2")
    write_html(executed.with_suffix(".html"), template, **content(load(executed)))


def content(page: NotebookNode) -> dict[str, Any]:
    """What `page.html.j2` needs of a notebook: title, cells, contents and functions.

    Every Markdown cell gets its `html`. Formulas become MathML, which browsers show
    without a script.
    """
    from nbconvert.filters import Highlight2HTML, ansi2html
    from pygments.formatters import HtmlFormatter

    render, contents = _markdown()
    for cell in page.cells:
        cell.html = render(cell.source) if cell.cell_type == "markdown" else ""
    light, dark = (
        HtmlFormatter(style=style).get_style_defs(".highlight")
        for style in ("default", "github-dark")
    )
    return {
        "title": title(page),
        "cells": page.cells,
        "contents": contents,
        "code_style": f"{light}\n@media (prefers-color-scheme: dark) {{\n{dark}\n}}",
        "code": Highlight2HTML(),
        "ansi": ansi2html,
        "alt": alternative_texts,
    }


def title(page: NotebookNode) -> str:
    """A notebook's first heading, without the mark."""
    lines = (line for cell in page.cells for line in cell.source.splitlines())
    return next((line[2:].strip() for line in lines if line.startswith("# ")), "")


def _markdown():
    """(function from Markdown to HTML, the list that gathers its sections' headings)"""
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    contents: list[tuple[str, str]] = []

    class Renderer(IPythonRenderer):
        def heading(self, text, level, **attrs):
            anchor = f"part-{len(contents)}-" + re.sub(r"<.*?>|\W+", "-", text)
            if level == 2:
                contents.append((anchor, text))
            return f'<h{level} id="{anchor}">{text}</h{level}>\n'

        def inline_math(self, body, display="inline"):
            try:
                return convert(body, display=display)
            except Exception:  # it raises many kinds, all mean that this is no LaTeX
                return f"<code>{self.escape_html(body)}</code>"

        def block_math(self, body):
            inside = self.inline_math(body, "block")
            group = 'class="scroll" tabindex="0" role="group" aria-label="Formula"'
            return f"<span {group}>{inside}</span>"

    return MarkdownWithMath(Renderer(escape=False)).render, contents


# -- the index -----------------------------------------------------------------------


def write_index(out: Path) -> Path:
    """Write OUT/index.html from the runs under OUT/PROFILE/NAME; returns its path."""
    profiles = {}
    for profile in PROFILES:
        folders = sorted(out.glob(f"{profile}/*"))
        if runs := [run for folder in folders if (run := _run(folder))]:
            profiles[profile] = runs
    write_html(
        out / "index.html", templates().get_template("index.html.j2"),
        title="Hard Negatives Lab: runs", profiles=profiles,
        times={name: _times(runs) for name, runs in profiles.items()},
        time_heads=["notebook", *(f"{part}, s" for part in PARTS), "peak, GB"],
    )  # fmt: skip
    return out / "index.html"


def _run(folder: Path) -> dict[str, Any] | None:
    """What the index says of a run's folder: a failed run, a whole one, or None."""
    failed, metrics = folder / f"{folder.name}.failed.ipynb", folder / "metrics.json"
    path = failed if failed.is_file() else folder / f"{folder.name}.ipynb"
    if not path.is_file() or not (failed.is_file() or metrics.is_file()):
        return None
    page = load(path)
    run = {"name": folder.name, "file": path.name, "title": title(page) or folder.name}
    if path == failed:
        return run | {"error": page.metadata.get("nbutils", {}).get("error", "unknown")}
    report, when = read_json(metrics), datetime.fromtimestamp(metrics.stat().st_mtime)
    rows = [[m["name"], m["value"], m["unit"]] for m in report["metrics"]]
    return run | {"report": report, "rows": rows, "when": f"{when:%Y-%m-%d %H:%M}"}


def _times(runs: list[dict[str, Any]]) -> list[list[Any]]:
    """One row a run that finished: name, seconds, peak memory; then all together."""
    rows = [
        [r["notebook"], *map(r["seconds"].get, PARTS), r["peak_memory_gb"]]
        for r in (run["report"] for run in runs if "report" in run)
    ]
    if len(rows) > 1:
        columns = list(zip(*rows, strict=True))
        rows.append(["all", *map(sum, columns[1:-1]), max(columns[-1])])
    return rows
