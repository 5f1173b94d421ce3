"""Every page for real, in the smoke profile, from one call."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path

import pytest

from nbutils.core.errors import LabError
from nbutils.pages import execute
from nbutils.pages.execute import PAGES


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def outcomes(out):
    return execute.run_all(PAGES, str(out), profile="smoke", say=lambda line: None)


class Page(HTMLParser):
    """Sections of the index: their headings, and the images in each."""

    def __init__(self, text: str):
        super().__init__()
        self.images: dict[str, list[dict[str, str | None]]] = {}
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if tag == "section":
            self.images[values["aria-labelledby"]] = []
        if tag == "img":
            list(self.images.values())[-1].append(values)


def test_every_page_finishes(outcomes):
    assert [outcome.name for outcome in outcomes] == list(PAGES)
    assert {o.name: o.error for o in outcomes if o.state != "done"} == {}


@pytest.mark.parametrize("name", PAGES)
def test_each_has_its_page_and_its_metrics(name, outcomes, out):
    folder = out / "smoke" / name
    report = json.loads((folder / "metrics.json").read_text())
    assert (report["notebook"], report["profile"]) == (name, "smoke")
    assert report["metrics"] and report["figures"]
    for filename in (f"{name}.ipynb", f"{name}.html", report["figures"][0]["file"]):
        assert (folder / filename).stat().st_size > 1000
    assert not list(folder.glob("*.failed.ipynb"))


def test_the_index_lists_them_with_figures_and_their_texts(outcomes, out):
    images = Page((out / "index.html").read_text()).images
    assert list(images) == [f"smoke-{name}" for name in PAGES]
    for name, found in images.items():
        assert found, f"{name} shows no figure"
        for image in found:
            assert image["src"].startswith("data:image/png;base64,")
            assert len(image["alt"] or "") > 20, f"{name}: {image['alt']!r}"


def test_each_reads_what_the_ones_before_it_wrote(outcomes, out):
    page = (out / "smoke" / PAGES[5] / f"{PAGES[5]}.ipynb").read_text()
    assert f"{PAGES[4]}/student" in page and "(shipped;" not in page


# -- what this machine cannot do -------------------------------------------------------


def everything(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("name", PAGES)
def test_the_paper_profile_stops_in_one_line_and_touches_nothing(
    name, tmp_path, monkeypatch
):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    for key in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(key, raising=False)
    older = tmp_path / "paper" / name
    (older / "student").mkdir(parents=True)
    for filename in ("metrics.json", "student/x"):
        (older / filename).write_text("{}")
    before = everything(tmp_path)
    for overrides, cause in (
        ({"min_memory_gb": 0.1}, "needs a CUDA GPU"),
        ({"min_memory_gb": 0.1, "device": "cpu"}, "OPENAI_API_KEY"),
        ({"min_memory_gb": 90000.0}, "GB of memory are free"),
        ({}, "."),
    ):
        with pytest.raises(LabError, match=cause) as caught:
            execute.run_all([name], str(tmp_path), "paper", overrides)
        assert "\n" not in str(caught.value)
    assert everything(tmp_path) == before
