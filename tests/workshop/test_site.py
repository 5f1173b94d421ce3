"""The static site and the slides: links, search, the way from page to page."""

import json
import re

import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from nbutils.core.errors import LabError
from nbutils.core.settings import ROOT
from nbutils.pages.source import load, write
from workshop import site

HEAD = """# 0{n} · Page {n}

| | |
|---|---|
| in class | {n}0 minutes; 5 on the short path |

You will be able to

- write a filter;
- read a table.

See [another](02_b.ipynb) and [the licence](../LICENSE)."""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project of two pages and two texts."""
    image = '<img alt="it rises" src="data:image/png;base64,aGk=">'
    shown = new_output("display_data", {"text/html": image})
    for n, name in (1, "01_a"), (2, "02_b"):
        tagged = new_markdown_cell("## 1. Mining $a_i$\n\nA **ceiling** is set.")
        tagged.metadata["tags"] = ["lab90"] if n == 1 else []
        code = new_code_cell("ceiling = 0.95", outputs=[shown], execution_count=1)
        cells = [new_markdown_cell(HEAD.format(n=n)), tagged, code]
        write(tmp_path / f"notebooks/{name}.ipynb", new_notebook(cells=cells))
    (tmp_path / "LICENSE").write_text("MIT")
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/gains.png").write_bytes(b"png")
    (tmp_path / "docs/teaching.md").write_text("# Teaching\n\n[more](../MORE.md)")
    (tmp_path / "MORE.md").write_text("# More\n\n[out](https://example.org)")
    (tmp_path / "README.md").write_text("# Read me\n\n![gains](docs/gains.png)")
    monkeypatch.setattr(site, "ROOT", tmp_path)
    pages = ["notebooks/01_a.ipynb", "notebooks/02_b.ipynb"]
    monkeypatch.setattr(site, "NOTEBOOKS", pages)
    return tmp_path


def test_every_page_and_what_it_links_to_is_there(project):
    pages, made = site.build("site"), project / "site"
    there = {str(p.relative_to(made)) for p in made.rglob("*") if p.is_file()}
    assert set(pages) == {path for path in there if path.endswith(".html")}
    assert there >= {"MORE.html", "LICENSE", "docs/gains.png", "search.js"}
    page = (made / "notebooks/01_a.html").read_text()
    assert 'href="02_b.html">another' in page and 'href="../LICENSE"' in page
    assert 'alt="it rises"' in page and "<math" in page and 'href="#main"' in page
    before, after = re.findall(r'(Before|Next): <a href="([^"]+)">', page)[:2]
    assert before == ("Before", "../index.html")
    assert after == ("Next", "../notebooks/02_b.html")
    index = (made / "index.html").read_text()
    for text in ("01 · Page 1</a>", "write a filter; read a table", ">10<"):
        assert text in index


def test_nothing_is_fetched_from_elsewhere(project):
    site.build("site")
    for kind in ("html", "js"):
        for path in (project / "site").rglob(f"*.{kind}"):
            text = path.read_text()
            assert not re.search(r"(src|@import|url\()\W*(https?:)?//", text), path
            assert "<link" not in text and "fetch(" not in text


def test_search_knows_each_section_with_its_place_its_text_and_code(project):
    site.build("site")
    listed = (project / "site/sections.js").read_text()
    sections = json.loads(listed.removeprefix("const SECTIONS = ").rstrip(";\n"))
    found = next(s for s in sections if s["heading"].startswith("1. Mining"))
    assert found["title"] == "01 · Page 1" not in {s["heading"] for s in sections}
    assert "A ceiling is set." in found["text"] and "ceiling = 0.95" in found["text"]
    path, _, anchor = found["link"].partition("#")
    assert f'id="{anchor}"' in (project / "site" / path).read_text()


@pytest.mark.parametrize(
    "link", ["docs/none.md", "notebooks/01_a.ipynb#nowhere", "../other/README.md"]
)
def test_a_broken_link_is_named_and_the_older_site_stays(project, link):
    site.build("site")
    (project / "README.md").write_text(f"# Read me\n\n[there]({link})")
    shown = link.replace(".ipynb", ".html")
    with pytest.raises(LabError, match=r"README\.\w+: its link to ") as fault:
        site.build("site")
    assert repr(shown) in str(fault.value)
    assert "gains" in (project / "site/README.html").read_text()
    assert not list(project.glob(".site*"))


def test_slides_hold_the_cells_of_the_tag_and_no_other(project):
    (path,) = site.slides("slides", "lab90")
    text = path.read_text()
    assert path.name == "01_a.html" and "ceiling</strong> is set" in text
    assert "Page 1</h1>" not in text and "<script src" not in text
    with pytest.raises(LabError, match="no cell of any page is tagged 'lab9'"):
        site.slides("slides", "lab9")


@pytest.mark.parametrize("path", site.NOTEBOOKS)
def test_every_real_page_says_what_it_teaches_and_its_minutes(path):
    title, able, minutes = site.outline(load(ROOT / path).cells[0].source)
    assert title.startswith("0") and len(able) > 40
    assert 5 <= int(minutes) <= 60
