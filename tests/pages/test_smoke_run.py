"""Every page for real, in the smoke profile, from one call."""

import json
import re
from pathlib import Path

import pytest

from nbutils.core.errors import LabError
from nbutils.pages import execute
from nbutils.pages.execute import BONUS, PAGES, find
from nbutils.pages.source import yours

WRITTEN = sorted(PAGES + BONUS)


@pytest.fixture(scope="module")
def out(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def outcomes(out):
    if changed := [remark for name in WRITTEN if (remark := yours(find(name)))]:
        pytest.skip(changed[0])  # a half-done exercise may well stop its page
    return execute.run_all(WRITTEN, str(out), profile="smoke", say=lambda line: None)


def test_every_page_finishes(outcomes):
    assert [outcome.name for outcome in outcomes] == WRITTEN
    assert {o.name: o.error for o in outcomes if o.state != "done"} == {}


@pytest.mark.parametrize("name", WRITTEN)
def test_each_has_its_page_its_metrics_and_its_figures(name, outcomes, out):
    folder = out / "smoke" / name
    report = json.loads((folder / "metrics.json").read_text())
    assert (report["notebook"], report["profile"]) == (name, "smoke")
    assert report["metrics"] and report["figures"]
    for filename in (f"{name}.ipynb", f"{name}.html", report["figures"][0]["file"]):
        assert (folder / filename).stat().st_size > 1000
    index = (out / "index.html").read_text()
    _, _, section = index.partition(f'aria-labelledby="smoke-{name} smoke"')
    section = section.split("</section>")[0]
    shown = re.findall(r'<img src="smoke/[^"]+.png" alt="([^"]*)"', section)
    assert len(shown) == section.count("<img") == len(report["figures"])
    assert all(len(text) > 20 for text in shown)


def test_each_reads_what_the_ones_before_it_wrote(outcomes, out):
    page = (out / "smoke" / PAGES[5] / f"{PAGES[5]}.ipynb").read_text()
    assert f"{PAGES[4]}/student" in page and "(shipped;" not in page


# -- what this machine cannot do -------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "cause"),
    [
        ({"min_memory_gb": 0.1}, "device is .cuda., which needs a CUDA GPU"),
        ({"min_memory_gb": 0.1, "device": "cpu"}, "OPENAI_API_KEY"),
        ({"min_memory_gb": 90000.0}, "GB of memory are free"),
    ],
)
def test_the_paper_profile_stops_in_one_line_and_touches_nothing(
    overrides, cause, tmp_path, monkeypatch
):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for key in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(key, raising=False)
    older = tmp_path / "paper" / PAGES[0] / "metrics.json"
    older.parent.mkdir(parents=True)
    older.write_text("{}")
    with pytest.raises(LabError, match=cause) as caught:
        execute.run_all(PAGES, str(tmp_path), "paper", overrides)
    assert "\n" not in str(caught.value)
    left = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert left == [older] and older.read_text() == "{}"
