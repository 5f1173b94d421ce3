"""The site and the index of runs in a browser: axe-core, keyboard, search, a phone."""

import shutil
from pathlib import Path

import pytest

from nbutils.core.files import write_json
from nbutils.core.settings import ROOT
from nbutils.pages.index import write_index, write_page
from workshop import site

SEARCHED = "notebooks/03_positive_aware_mining.html"
NAME, FAILED = "01_task_brainstorming", "06_evaluation"


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The site, and an index of runs: one page in two profiles, and one that failed."""
    made = tmp_path_factory.mktemp("reading")
    site.build(made / "site")
    parts = ("total", "import", "encoding", "training", "other")
    report = {
        "notebook": NAME, "seed": 0, "device": "CPU", "peak_memory_gb": 1.2,
        "seconds": dict.fromkeys(parts, 1.0),
        "metrics": [{"name": "tasks", "value": 3, "unit": "tasks"}],
        "figures": [{"name": "gains", "file": "gains.png", "alt": "Gains over seeds"}],
    }  # fmt: skip
    for profile in ("smoke", "workshop"):
        run = made / "runs" / profile / NAME
        write_json(run / "metrics.json", report)
        shutil.copy(ROOT / "docs/gains.png", run)
        shutil.copy(ROOT / f"notebooks/{NAME}.ipynb", run)
        write_page(run / f"{NAME}.ipynb")
    failed = run.parent / FAILED / f"{FAILED}.failed.ipynb"
    failed.parent.mkdir()
    shutil.copy(ROOT / f"notebooks/{FAILED}.ipynb", failed)
    write_index(made / "runs")
    return made


@pytest.fixture(scope="module")
def broken(browser):
    """Function from a page to the rules of axe that it breaks, by scheme of colours."""
    axe = pytest.importorskip(
        "axe_playwright_python.sync_playwright", reason="make e2e"
    )

    def rules(path: Path) -> dict[str, dict[str, str]]:
        page, found = browser.new_page(color_scheme="light"), {}
        page.goto(path.as_uri())
        # in the dark, only what colours decide can differ
        for scheme, some in ("light", {}), ("dark", {"runOnly": ["color-contrast"]}):
            page.emulate_media(color_scheme=scheme)
            options = {"resultTypes": ["violations"], **some}
            violations = axe.Axe().run(page, options=options).response["violations"]
            found[scheme] = {v["id"]: v["nodes"][0]["html"] for v in violations}
        page.close()
        return found

    return rules


def test_axe_finds_nothing_on_any_page_in_light_and_dark(folder, broken):
    paths = sorted(folder.rglob("*.html"))
    assert len(paths) > 15 and folder / "runs/index.html" in paths
    for path in paths:
        assert broken(path) == {"light": {}, "dark": {}}, path.relative_to(folder)


def test_axe_does_find_a_picture_without_text_and_pale_ink(tmp_path, broken):
    dark = "@media (prefers-color-scheme: dark) { p { color: #777; background: #888 } }"
    page = tmp_path / "page.html"
    page.write_text(
        f'<html lang="en"><title>t</title><style>{dark}</style><p>pale<img src="x.png">'
    )
    found = broken(page)
    assert "image-alt" in found["light"] and "color-contrast" not in found["light"]
    assert set(found["dark"]) == {"color-contrast"}


def test_search_is_told_and_leads_to_the_place_by_keyboard_from_a_folder(
    folder, browser
):
    page, asked = browser.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    page.goto((folder / "site" / SEARCHED).as_uri())
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the text"
    page.fill("#search", "zzzz")
    assert page.inner_text("#found") == "0 sections found"
    page.fill("#search", "ceiling shift(")
    assert page.locator("#found").get_attribute("aria-live") == "polite"
    page.fill("#search", "ata line")
    titles = page.locator("#results a").all_inner_texts()
    assert titles[0].startswith("04 · ") and "ATA, line by line" in titles[0]
    page.keyboard.press("Enter")
    page.keyboard.press("Enter")
    page.wait_for_url("**/notebooks/04_*.html#*")
    top = "document.querySelector(':target').getBoundingClientRect().top"
    assert -5 < page.evaluate(top) < 200
    assert all(url.startswith(("file:", "data:")) for url in asked)
    page.close()


@pytest.mark.parametrize("path", ["index.html", SEARCHED, "README.html"])
def test_a_phone_scrolls_no_page_sideways(path, folder, browser):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto((folder / "site" / path).as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()
