"""The pages in JupyterLab, as a learner has them: run, answered, and played with."""

import json
import os
import urllib.request
from pathlib import Path

import pytest

from nbutils.core.settings import ROOT

API = pytest.importorskip("playwright.sync_api", reason="no playwright: make e2e")
NAMES = sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
PROMPTS = "[...document.querySelectorAll('.jp-CodeCell .jp-InputPrompt')]"
BUSY = PROMPTS + ".some(prompt => prompt.textContent.includes('*'))"
IMAGES = """() => [...document.querySelectorAll('.jp-OutputArea img')]
  .map(image => [image.alt, image.complete ? image.naturalWidth : 0])"""


@pytest.fixture
def page(browser, lab):
    """A window of its own; the kernels that it started end with it."""
    context = browser.new_context(viewport={"width": 1280, "height": 1000})
    context.set_default_timeout(120_000)  # ms; other work may slow the machine down
    yield context.new_page()
    context.close()
    with urllib.request.urlopen(f"{lab}api/sessions") as answer:
        sessions = json.load(answer)
    for session in sessions:
        address = f"{lab}api/sessions/{session['id']}"
        urllib.request.urlopen(urllib.request.Request(address, method="DELETE"))


@pytest.mark.parametrize("name", NAMES)
def test_a_page_runs_is_answered_and_played_with(name, page, lab):
    page.goto(f"{lab}lab/tree/{name}.ipynb?reset")
    page.get_by_text("Python 3 (ipykernel) | Idle").wait_for()  # else nothing is run
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    page.wait_for_function(BUSY)
    until_idle(page)
    for fault in ("error", "stderr"):
        found = page.locator(f"[data-mime-type='application/vnd.jupyter.{fault}']")
        assert found.all_inner_texts() == []
    prompts = page.locator(".jp-CodeCell .jp-InputPrompt").all_inner_texts()
    assert prompts == [f"[{n}]:" for n in range(1, len(prompts) + 1)]
    images = page.evaluate(IMAGES)
    assert images and all(len(alt) > 20 and width > 200 for alt, width in images)
    PLAYED.get(name.split("_")[0], lambda page: None)(page)
    shoot(page, name)


def until_idle(page) -> None:
    page.wait_for_function(f"!{BUSY}", timeout=600_000)


def shoot(page, name: str) -> None:
    """A picture of the whole page, where somebody wants to look: SHOTS=folder."""
    if folder := os.environ.get("SHOTS"):
        panel = ".jp-Notebook .jp-WindowedPanel-outer"
        height = page.eval_on_selector(panel, "panel => panel.scrollHeight")
        page.set_viewport_size({"width": 1280, "height": min(height + 120, 30_000)})
        page.screenshot(path=Path(folder, f"{name}.png"))


# -- an exercise -----------------------------------------------------------------------


def answer_wrong_and_right(page) -> None:
    assert "MRR" in answered(page, "return 1 / rank if rank <= 10 else 0.0")
    right = "return 1 / np.log2(rank + 1) if rank <= 10 else 0.0"
    assert answered(page, right) == "right"


def answered(page, body: str) -> str:
    """What the check says to a body written into the first exercise's stub."""
    cell = page.locator(".jp-CodeCell", has_text="def ndcg_single(")
    last = cell.locator(".cm-line", has_text="    r").last  # raise …, or return …
    last.click()
    for key in ("Home", "Shift+End"):
        page.keyboard.press(key)
    page.keyboard.insert_text(body)
    prompt = cell.locator(".jp-InputPrompt")
    before = prompt.inner_text()
    page.keyboard.press("Control+Enter")
    # it may be busy for too short a time to be seen so
    API.expect(prompt).not_to_have_text(before, timeout=120_000)
    until_idle(page)
    return cell.locator(".jp-OutputArea-output").inner_text().strip()


# -- controls --------------------------------------------------------------------------


def turn_the_ceiling(page) -> None:
    method, threshold = page.get_by_label("method"), page.get_by_role("slider")
    first = drawn(page, lambda: threshold.press("ArrowLeft"))
    second = drawn(page, lambda: method.select_option("abs"))
    assert "ceiling" in first and "Abs" in second


def type_a_sentence(page) -> None:
    field = page.get_by_label("sentence")
    field.fill("The river froze, and the mill stood still.")
    shown = drawn(page, lambda: field.press("Enter"))
    assert "both ways" in shown
    field.fill("")
    field.press("Enter")
    page.get_by_text("give a sentence of 1 to 30 words").wait_for()


def change_the_order(page) -> None:
    schedule, step = page.get_by_label("schedule"), page.get_by_role("slider").first
    first = drawn(page, lambda: schedule.select_option("reverse"))
    last = drawn(page, lambda: step.press("End"))
    assert " N1" in first and " N4" in last


def drawn(page, move) -> str:
    """The text of the picture that a moved control brings; it is another picture."""
    pictures = page.locator(".widget-output img")
    before = pictures.get_attribute("alt") if pictures.count() else ""
    move()
    page.wait_for_function(
        """before => {const image = document.querySelector('.widget-output img');
        return image && image.alt != before}""",
        arg=before,
    )
    return pictures.get_attribute("alt")


PLAYED = {
    "03": turn_the_ceiling,
    "04": type_a_sentence,
    "05": change_the_order,
    "06": answer_wrong_and_right,
}
