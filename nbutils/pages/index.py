"""The static pages of a run: each executed notebook as HTML, and one index of all.

No script and no style is fetched from elsewhere: the pages open without network, also
from a file share. The index lists every profile's runs that it finds.
"""

from __future__ import annotations

import base64
import io
import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2

from nbutils.core.files import atomic
from nbutils.core.profiles import PROFILES
from nbutils.pages.source import load

THUMBNAIL = 420
"""Width of a figure on the index, in pixels."""
PARTS = ("total", "import", "encoding", "training", "other")


def write_page(executed: Path) -> None:
    """Render an executed notebook beside itself as NAME.html, figures embedded."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_name="lab", embed_images=True)
    page = load(executed)
    page.metadata["title"] = _title(page)
    html, _ = exporter.from_notebook_node(page)
    # the template's scripts fetch MathJax and others, which these pages do not need
    html = re.sub(r"<script\b.*?</script>", "", html, flags=re.DOTALL)
    with atomic(executed.with_suffix(".html")) as temporary:
        temporary.write_text(html, encoding="utf-8")


def write_index(out: Path) -> Path:
    """Write OUT/index.html from the runs under OUT/PROFILE/NAME; returns its path."""
    found: dict[str, list[dict[str, Any]]] = {}
    for folder in sorted(out.glob("*/*")):
        if run := _run(folder):
            found.setdefault(folder.parent.name, []).append(run)
    known = [*PROFILES, *found]
    profiles = {name: found[name] for name in sorted(found, key=known.index)}
    template = (Path(__file__).parent / "index.html.j2").read_text(encoding="utf-8")
    html = jinja2.Template(template, autoescape=True).render(
        profiles=profiles,
        times={name: _times(runs) for name, runs in profiles.items()},
        time_heads=["notebook", *(f"{part}, s" for part in PARTS), "peak, GB"],
    )
    path = out / "index.html"
    with atomic(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path


def _run(folder: Path) -> dict[str, Any] | None:
    """What the index says of a run's folder: a failed run, a whole one, or None."""
    failed, metrics = folder / f"{folder.name}.failed.ipynb", folder / "metrics.json"
    path = failed if failed.is_file() else folder / f"{folder.name}.ipynb"
    if not path.is_file() or not (failed.is_file() or metrics.is_file()):
        return None
    page = load(path)
    run = {"name": folder.name, "file": path.name, "title": _title(page) or folder.name}
    if path == failed:
        return {
            **run,
            "error": page.metadata.get("nbutils", {}).get("error", "unknown"),
        }
    report = json.loads(metrics.read_text(encoding="utf-8"))
    shown = [f for f in report["figures"] if (folder / f["file"]).is_file()]
    return {
        **run,
        "report": report,
        "when": f"{datetime.fromtimestamp(metrics.stat().st_mtime):%Y-%m-%d %H:%M}",
        "rows": [[m["name"], m["value"], m["unit"]] for m in report["metrics"]],
        "figures": [{**f, "data": _thumbnail(folder / f["file"])} for f in shown],
    }


def _times(runs: list[dict[str, Any]]) -> list[list[Any]]:
    """One row a run that finished: name, seconds, peak memory; then all together."""
    reports = [run["report"] for run in runs if "report" in run]
    seconds = [[report["seconds"][part] for part in PARTS] for report in reports]
    peaks = [report["peak_memory_gb"] for report in reports]
    names = [report["notebook"] for report in reports]
    if len(reports) > 1:
        seconds.append([sum(column) for column in zip(*seconds, strict=True)])
        names, peaks = [*names, "all"], [*peaks, max(peaks)]
    return [[n, *s, p] for n, s, p in zip(names, seconds, peaks, strict=True)]


def _title(page: Any) -> str:
    """A notebook's first heading, without the mark."""
    lines = (line for cell in page.cells for line in cell.source.splitlines())
    return next((line[2:].strip() for line in lines if line.startswith("# ")), "")


def _thumbnail(path: Path) -> str:
    """A figure made small enough for the index, as base64."""
    from PIL import Image

    with Image.open(path) as image:
        small = image.convert("RGB")
    small.thumbnail((2 * THUMBNAIL, 4 * THUMBNAIL))  # sharp on dense screens
    buffer = io.BytesIO()
    small.quantize(64).save(buffer, "PNG", optimize=True)
    return base64.b64encode(buffer.getvalue()).decode()
