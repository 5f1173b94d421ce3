"""Controls: headless only the picture of record, else what is asked for beside it."""

import IPython.display
import pytest
from ipywidgets import Dropdown, IntSlider, Text, VBox
from matplotlib.figure import Figure

from nbutils import pages
from nbutils.core.errors import LabError
from nbutils.pages.run import HEADLESS


@pytest.fixture
def shown(monkeypatch):
    """What is displayed, in order."""
    found = []
    monkeypatch.setattr(IPython.display, "display", lambda it, **_: found.append(it))
    return found


def explored(tmp_path):
    """A run, its drawing, and the drawing's calls."""
    run, calls = pages.start("probe", "smoke", {}, str(tmp_path)), []

    def drawing(kind="b", step=2, word="one"):
        calls.append((kind, step, word))
        if not word:
            raise LabError("give a word")
        run.figure("drawn", (Figure((step, 1)), f"{kind} at {step}, {word}."))

    pages.explore(run, drawing, kind=["a", "b"], step=(1, 4), word="one")
    return run, calls


def test_a_headless_run_shows_the_picture_of_record_only(shown, tmp_path, monkeypatch):
    monkeypatch.setenv(HEADLESS, "1")
    run, calls = explored(tmp_path)
    assert calls == [("b", 2, "one")] and run.path("figures/drawn.png").is_file()
    assert len(shown) == 1 and 'alt="b at 2, one."' in shown[0]["text/html"]


def test_who_moves_a_control_gets_a_picture_beside_the_one_of_record(
    shown, tmp_path, capsys
):
    run, calls = explored(tmp_path)
    kept = run.path("figures/drawn.png").read_bytes()
    _, kind, step, word, _ = shown[-1].children
    assert isinstance(shown[-1], VBox) and len(shown) == 2 and len(calls) == 1
    assert (type(kind), type(step), type(word)) == (Dropdown, IntSlider, Text)
    assert (kind.value, step.value, word.value) == ("b", 2, "one")
    assert not step.continuous_update
    kind.value, step.value = "a", 3
    assert calls[1:] == [("a", 2, "one"), ("a", 3, "one")]
    assert 'alt="a at 3, one."' in shown[-1]["text/html"]
    assert run.path("figures/drawn.png").read_bytes() == kept
    capsys.readouterr()
    word.value = ""
    assert capsys.readouterr().out.endswith("give a word\n")
    run.finish({})
    assert '"alt": "b at 2, one."' in run.path("metrics.json").read_text()
