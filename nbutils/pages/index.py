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
from html import escape
from pathlib import Path
from typing import Any

from nbutils.core.files import atomic
from nbutils.core.profiles import PROFILES
from nbutils.pages.source import load

THUMBNAIL = 420
"""Width of a figure on the index, in pixels."""

STYLE = """
body { font: 1rem/1.5 system-ui, sans-serif; max-width: 62rem; margin: 0 auto;
  padding: 1rem; color: #1b1b1b; background: #fff; }
table { border-collapse: collapse; margin: .5rem 0; }
caption { text-align: left; font-weight: 600; padding: .25rem 0; }
th, td { border-bottom: 1px solid #bbb; padding: .15rem .75rem .15rem 0; }
th { text-align: left; } td.n { text-align: right; font-variant-numeric: tabular-nums; }
section { border-top: 2px solid #1b1b1b; margin-top: 2rem; }
figure { display: inline-block; vertical-align: top; width: 26rem; max-width: 100%;
  margin: 0 1rem 1rem 0; }
figure img { max-width: 100%; height: auto; border: 1px solid #bbb; }
figcaption { font-size: .9rem; } .failed { color: #a40000; font-weight: 600; }
a { color: #0b4f9e; }
"""


def write_page(executed: Path) -> None:
    """Render an executed notebook beside itself as NAME.html, figures embedded."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(template_name="lab", embed_images=True)
    page = load(executed)
    page.metadata["title"] = title(page)
    html, _ = exporter.from_notebook_node(page)
    # the template's scripts fetch MathJax and others, which these pages do not need
    html = re.sub(r"<script\b.*?</script>", "", html, flags=re.DOTALL)
    with atomic(executed.with_suffix(".html")) as temporary:
        temporary.write_text(html, encoding="utf-8")


def title(page: Any) -> str:
    """A notebook's first heading, without the mark."""
    lines = (line for cell in page.cells for line in cell.source.splitlines())
    return next((line[2:].strip() for line in lines if line.startswith("# ")), "")


def write_index(out: Path) -> Path:
    """Write OUT/index.html from the runs under OUT/PROFILE/NAME; returns its path."""
    runs = sorted(p for p in out.glob("*/*") if _page(p) is not None)
    profiles = list(dict.fromkeys(run.parent.name for run in runs))
    profiles.sort(key=lambda name: ([*PROFILES, name].index(name), name))
    body = "".join(
        _profile(name, [run for run in runs if run.parent.name == name])
        for name in profiles
    )
    html = (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Hard Negatives Lab: runs</title>\n<style>{STYLE}</style>\n</head>\n"
        "<body>\n<main>\n<h1>Hard Negatives Lab: runs</h1>\n"
        f"{body or '<p>No notebook has been run.</p>'}</main>\n</body>\n</html>\n"
    )
    path = out / "index.html"
    with atomic(path) as temporary:
        temporary.write_text(html, encoding="utf-8")
    return path


def _page(folder: Path) -> Path | None:
    """The executed notebook of a run's folder, the failed one, or None."""
    done = folder / f"{folder.name}.ipynb"
    failed = folder / f"{folder.name}.failed.ipynb"
    if failed.is_file():
        return failed
    return done if done.is_file() and (folder / "metrics.json").is_file() else None


def _profile(name: str, runs: list[Path]) -> str:
    done = [_report(run) for run in runs if (run / "metrics.json").is_file()]
    rows = [
        [r["notebook"], r["wall"], *(r["seconds"][p] for p in _PARTS), r["memory"]]
        for r in done
    ]
    if rows:
        columns = list(zip(*rows, strict=True))
        rows.append(["all", *(sum(c) for c in columns[1:-1]), max(columns[-1])])
    heads = ["notebook", "time, s", *(f"{part}, s" for part in _PARTS), "peak, GB"]
    table = _table(f"Time and peak memory, profile {name}", heads, rows)
    sections = "".join(_section(run) for run in runs)
    return f"<h2>Profile {escape(name)}</h2>\n{table}{sections}"


_PARTS = ("import", "encoding", "training", "other")


def _report(run: Path) -> dict[str, Any]:
    report = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    when = datetime.fromtimestamp((run / "metrics.json").stat().st_mtime)
    report["when"] = when.strftime("%Y-%m-%d %H:%M")
    report["wall"] = report["seconds"]["total"]
    report["memory"] = report["peak_memory_gb"]
    return report


def _section(run: Path) -> str:
    path = _page(run)
    page = load(path)
    name, heading = run.name, f"{run.parent.name}-{run.name}"
    head = (
        f'<section aria-labelledby="{escape(heading)}">\n'
        f'<h3 id="{escape(heading)}">{escape(title(page) or name)}</h3>\n'
    )
    base = escape(f"{run.parent.name}/{name}/")
    if path.name.endswith(".failed.ipynb"):
        error = escape(page.metadata.get("nbutils", {}).get("error", "unknown"))
        link = f'<a href="{base}{escape(path.name)}">what had run of {escape(name)}</a>'
        return f'{head}<p class="failed">Failed: {error}</p>\n<p>{link}</p>\n</section>'
    report = _report(run)
    rows = [[m["name"], m["value"], m["unit"]] for m in report["metrics"]]
    return (
        f"{head}<p>{report['wall']:.0f} s, peak {report['memory']:.1f} GB, "
        f"{escape(report['device'])}, seed {report['seed']}, run {report['when']}. "
        f'<a href="{base}{escape(name)}.html">Read {escape(name)}</a> or '
        f'<a href="{base}{escape(path.name)}">take its notebook file</a>.</p>\n'
        f"{_table('Metrics', ['metric', 'value', 'unit'], rows)}"
        f"{''.join(_figure(run, base, f) for f in report['figures'])}</section>\n"
    )


def _table(caption: str, heads: list[str], rows: list[list[Any]]) -> str:
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{escape(h)}</th>' for h in heads)
    body = "".join(
        f'<tr><th scope="row">{escape(str(first))}</th>'
        f"{''.join(map(_cell, rest))}</tr>\n"
        for first, *rest in rows
    )
    return (
        f"<table>\n<caption>{escape(caption)}</caption>\n<thead><tr>{head}</tr></thead>"
        f"\n<tbody>\n{body}</tbody>\n</table>\n"
    )


def _cell(value: Any) -> str:
    if isinstance(value, str):
        return f"<td>{escape(value)}</td>"
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"
    return f'<td class="n">{text}</td>'


def _figure(run: Path, base: str, entry: dict[str, str]) -> str:
    path = run / entry["file"]
    if not path.is_file():
        return ""
    alt = escape(entry["alt"], quote=True)
    data = base64.b64encode(_thumbnail(path)).decode()
    return (
        f'<figure><a href="{base}{escape(entry["file"])}">'
        f'<img src="data:image/png;base64,{data}" alt="{alt}"></a>'
        f"<figcaption>{alt}</figcaption></figure>\n"
    )


def _thumbnail(path: Path) -> bytes:
    from PIL import Image

    with Image.open(path) as image:
        small = image.convert("RGB")
        small.thumbnail((2 * THUMBNAIL, 4 * THUMBNAIL))  # sharp on dense screens
        buffer = io.BytesIO()
        small.quantize(64).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
