"""A notebook's own side of its run: what it says, reads, times, reports and shows."""

import json
import re
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import seaborn as sns
from PIL import Image

from nbutils.core.errors import LabError
from nbutils.core.files import write_sums
from nbutils.core.settings import ROOT
from nbutils.pages.run import start, table
from nbutils.plots.style import canvas


@pytest.fixture
def run(tmp_path):
    return start("probe", "smoke", {"seed": 2}, str(tmp_path))


def test_start_says_what_will_happen(capsys, run, tmp_path):
    said = capsys.readouterr().out
    assert "probe: profile smoke, seed 2" in said
    assert f"writes {tmp_path}/smoke/probe; network: not needed" in said
    assert "changed: seed = 2" in said
    assert Path.cwd() == ROOT and run.interactive


def test_a_folder_that_somebody_else_made_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(LabError, match=r"\(Permission denied\): name another --out"):
        start("probe", "smoke", out=str(tmp_path / "other"))


def test_input_prefers_the_same_profiles_run_and_says_so(run, tmp_path, capsys):
    shipped = tmp_path / "data" / "shipped.csv"
    made = run.folder.parent / "earlier" / "part" / "table.csv"
    metrics = run.folder.parent / "earlier" / "metrics.json"
    wanted = ("earlier", "part/table.csv", shipped)
    with pytest.raises(LabError, match="nbutils run earlier --profile smoke"):
        run.input(*wanted)
    shipped.parent.mkdir()
    shipped.write_text("a")
    with pytest.raises(LabError, match="SHA256SUMS is missing"):
        run.input(*wanted)
    write_sums(shipped.parent)
    assert run.input(*wanted) == shipped
    assert "shipped; earlier has not run" in capsys.readouterr().out
    made.parent.mkdir(parents=True)
    made.write_text("b")  # but no metrics: that run failed, or is under way
    assert run.input(*wanted) == shipped
    assert "shipped; earlier has not finished" in capsys.readouterr().out
    with pytest.raises(LabError, match="is from an unfinished run: run"):
        run.input("earlier", "part/table.csv")
    theirs = {**run.settings.flat(), "seed": 9}
    metrics.write_text(json.dumps({"settings": theirs}))
    assert run.input(*wanted) == made
    assert "made with another seed" in capsys.readouterr().out
    metrics.write_text('{"sett')
    with pytest.raises(LabError, match=r"metrics\.json is not JSON"):
        run.input(*wanted)
    shipped.write_text("b")
    with pytest.raises(LabError, match=r"shipped\.csv is truncated or changed"):
        run.input("later", "part/table.csv", shipped)


def test_a_timed_part_inside_another_is_counted_once(run, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    with run.timed("training"):
        now[0] += 5
        with run.timed("encoding"):
            now[0] += 10
        now[0] += 2
    seconds = run.seconds()
    assert (seconds["encoding"], seconds["training"]) == (10, 7)
    with pytest.raises(LabError, match="known: encoding, training"):
        run.timed("reading").__enter__()


def test_metrics_are_finite_numbers_or_nothing_is_written(run, capsys):
    for value in (float("inf"), "0.5", None):
        with pytest.raises(LabError, match="finite number"):
            run.finish({"score": (value, "")})
    assert list(run.folder.iterdir()) == []
    score = pd.Series([0.25, 0.5]).mean()
    run.finish({"score": (score, "NDCG@10"), "n": (pd.Series([1]).sum(), "queries")})
    written = json.loads((run.folder / "metrics.json").read_text())["metrics"]
    assert [row["value"] for row in written] == [0.375, 1]
    assert "2 numbers in metrics.json" in capsys.readouterr().out


def test_a_stored_figure_keeps_the_colour_of_a_few_marks(run):
    fig, axis = canvas()
    for number, colour in enumerate(sns.color_palette("colorblind")):
        axis.plot(range(9), [number] * 9, color=colour, label=f"line {number}")
    axis.plot(0, -1, "X", color=(0.8, 0.1, 0.1))
    axis.legend()
    run.figure("marks", (fig, "Lines."))
    with Image.open(run.path("figures/marks.png")) as stored:
        colours = [np.array(c) for _, c in stored.convert("RGB").getcolors(1 << 16)]
    for wanted in (*sns.color_palette("colorblind"), (0.8, 0.1, 0.1)):
        away = min(np.abs(own / 255 - wanted).max() for own in colours)
        assert away < 0.06, wanted


def test_a_figure_without_a_description_is_refused(run):
    with pytest.raises(LabError, match="has no description"):
        run.figure("x", (None, " "))


# -- tables ----------------------------------------------------------------------------

FRAME = pd.DataFrame(
    {"claim": ["long " * 50, None], "ok": [True, False], "x": [0.12345, float("nan")]}
)


@pytest.fixture
def shown(monkeypatch):
    """The HTML of what `table` shows of a frame."""
    found = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: found.append(data))

    def show(*arguments, **options) -> str:
        table(*arguments, **options)
        assert not re.search(r"<th[^>]*></th>", found[-1]["text/html"])
        return found[-1]["text/html"]

    return show


def test_a_table_is_whole_and_its_headers_name_rows_and_columns(shown):
    made = shown(FRAME, digits=2)
    assert "long " * 50 in made and "<td>0.12</td>" in made and "nan" not in made
    assert ">yes</td>" in made and ">no</td>" in made and "True" not in made
    assert '<td></td><th scope="col"' in made and '<th scope="row">1</th>' in made
    assert made.count("text-align:left") == 5  # two headers, three cells
    made = shown(FRAME.set_index("claim").rename_axis(None), index=False)
    assert '<th scope="row"' not in made and "0.123" in made and "long" not in made
    made = shown(FRAME.assign(n=1000).pivot_table(["x", "n"], "ok", aggfunc="min"))
    assert '<th scope="col" style="text-align:left">ok</th>' in made
    assert '<th scope="row" style="text-align:left">yes</th><td>1,000' in made


def test_names_may_repeat_and_an_index_may_have_levels_and_categories(shown):
    kinds = pd.MultiIndex.from_tuples([("a", 1), ("a", 2)], names=["x", None])
    letters = pd.CategoricalIndex(["x", "y"])
    made = shown(pd.DataFrame([[1, 2.5], [3, None]], kinds, letters))
    assert re.findall(r"<t[hd]\b[^>]*>([^<]*)", made) == [
        *("x", "", "x", "y"), *("a", "1", "1", "2.500"), *("a", "2", "3", ""),
    ]  # fmt: skip


def test_a_table_with_a_title_opens_on_a_click(shown):
    made = shown(FRAME, fold="all <claims>")
    assert made.startswith("<details><summary>all &lt;claims&gt;</summary><table>")
    assert made.endswith("</table></details>")
