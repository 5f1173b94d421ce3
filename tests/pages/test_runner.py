"""Every way in which a headless run was seen to pass wrongly is an error here."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from conftest import PARAMETERS, probe
from nbformat.v4 import new_output

from nbutils.core.errors import LabError
from nbutils.core.files import write_sums
from nbutils.core.settings import ROOT
from nbutils.pages.execute import OwnKernel, execute, find, run_all
from nbutils.pages.index import write_index, write_page
from nbutils.pages.run import start
from nbutils.pages.source import (
    WIDGET,
    check_fresh,
    check_outputs,
    check_source,
    code_cells,
    committed,
    load,
    write,
)

FIGURE = """
from matplotlib.figure import Figure
figure = Figure(figsize=(2, 1))
figure.subplots().plot([1, 2, 3])
run.figure("rise", (figure, "Three points\\n that rise <from> 1 to 3"))
"""


def execute_smoke(path: Path, out: Path, **changes):
    return execute(path, out, "smoke", **changes)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """One good run, launched from another folder, with an override and a figure."""
    folder = tmp_path_factory.mktemp("sound")
    path = folder / "probe.ipynb"
    slow = "import time\nwith run.timed('training'):\n    time.sleep(0.3)"
    quiet = (
        "import importlib, os\nfrom tqdm import tqdm\nlist(tqdm(range(3)))\n"
        # as libraries do it
        "list(importlib.import_module('tqdm' + '.auto').tqdm(range(3)))\n"
        "print(os.getcwd(), os.environ['HF_HUB_OFFLINE'])"
    )
    nbformat.write(probe(FIGURE, slow, quiet), path)
    kept = folder / "out" / "smoke" / "probe" / "candidates-bm25.parquet"
    kept.parent.mkdir(parents=True)
    kept.write_text("a table that names its inputs")
    (kept.parent / "elsewhere").symlink_to(folder)
    before = Path.cwd(), dict(os.environ)
    os.chdir(folder)
    try:
        report = execute_smoke(path, folder / "out", overrides={"seed": 7, "lora_r": 4})
    finally:
        os.chdir(before[0])
    assert dict(os.environ) == before[1]  # a run leaves nothing behind
    return kept.parent, report


# -- a run that did its work -----------------------------------------------------------


def test_metrics_say_what_ran_and_where_the_time_went(sound):
    folder, report = sound
    assert json.loads((folder / "metrics.json").read_text()) == report
    assert report["metrics"] == [{"name": "answer", "value": 42, "unit": "items"}]
    assert (report["profile"], report["seed"]) == ("smoke", 7)
    assert report["settings"]["lora_r"] == 4
    assert {"python", "torch", "peft", "mteb", "nbutils"} <= set(report["versions"])
    seconds = report["seconds"]
    parts = ("import", "encoding", "training", "other")
    assert sum(seconds[p] for p in parts) == pytest.approx(seconds["total"], abs=0.01)
    assert seconds["training"] >= 0.3  # what the page slept in that part
    assert seconds["encoding"] == 0
    assert seconds["import"] > 0.1  # from the kernel's start to `start`
    assert 0.03 < report["peak_memory_gb"] < 1.5


def test_the_page_ran_at_the_root_without_network_or_stored_bars(sound):
    page = load(sound[0] / "probe.ipynb")
    outputs = [o for c in page.cells for o in c.get("outputs", [])]
    assert any(f"{ROOT} 1\n" in o.get("text", "") for o in outputs)
    assert {o.name for o in outputs if "name" in o} == {"stdout"}
    assert "it/s" not in nbformat.writes(page) and "widgets" not in page.metadata


def test_a_new_run_keeps_candidate_tables_only(sound):
    there = {p.name for p in sound[0].iterdir()} - {"probe.html"}
    assert there == {
        "candidates-bm25.parquet", "probe.ipynb", "metrics.json", "figures",
    }  # fmt: skip
    assert (sound[0].parents[2] / "probe.ipynb").is_file()  # nothing behind a link went


def test_a_figure_has_its_file_its_alternative_text_and_its_line(sound):
    folder, report = sound
    text = "Three points that rise <from> 1 to 3"
    assert report["figures"][0]["alt"] == text
    assert (folder / "figures/rise.png").read_bytes().startswith(b"\x89PNG")
    page = load(folder / "probe.ipynb")
    shown, printed = next(c.outputs for c in page.cells if "Figure" in c.source)
    assert shown.metadata["image/png"]["alt"] == text
    assert printed.text == f"{text}\n"


def test_the_index_is_one_self_contained_page(sound):
    folder, _ = sound
    write_page(folder / "probe.ipynb")
    html = write_index(folder.parent.parent).read_text()
    assert 'lang="en"' in html and "A probe</h3>" in html
    assert 'alt="Three points that rise &lt;from&gt; 1 to 3"' in html
    assert "answer</th>" in html and "42</td>" in html
    assert 'href="smoke/probe/probe.html"' in html
    assert 'href="smoke/probe/probe.ipynb"' in html
    page = (folder / "probe.html").read_text()
    for text in (html, page):
        assert "<script" not in text and "<link" not in text.split("</head>")[0]
        assert 'src="http' not in text
        assert "data:image/png;base64" in text
    assert "from 1 to 3" in page.replace("&lt;from&gt;", "from")


def test_an_index_of_nothing_says_so(tmp_path):
    assert "No notebook has been run." in write_index(tmp_path).read_text()


# -- runs that must not pass -----------------------------------------------------------

FAULT = "from nbutils.core import LabError\nraise LabError('mend the data')"
OTHER = "run.settings = run.settings.changed(seed=5)"
BAD_RUNS = {
    "early exit": (("import sys\nsys.exit(0)",), {}, "left the notebook early"),
    "raised exit": (("raise SystemExit",), {}, r"early \(SystemExit\)"),
    "dead kernel": (("import os\nos._exit(0)",), {}, "ended the kernel"),
    "an exception": (("x = [1]\nx[3]",), {}, "IndexError: list index out of range"),
    "a LabError": ((FAULT,), {}, r'^probe: cell 6 \("from .*"\): mend the data$'),
    "too slow": (("import time\ntime.sleep(60)",), {}, "took longer than 2 s"),
    "no metrics": ((), {"last": "if not profile:\n    run.finish({})"}, "metrics.json"),
    "other settings": ((OTHER,), {}, "settings passed to it"),
    "not a number": (
        (),
        {"last": "run.finish({'x': (float('nan'), '')})"},
        "'x' is nan",
    ),
}


@pytest.mark.parametrize("case", BAD_RUNS)
def test_a_faulty_run_is_an_error_with_a_named_cause(case, write_probe, tmp_path):
    body, changes, cause = BAD_RUNS[case]
    folder = tmp_path / "out" / "smoke" / "probe"
    folder.mkdir(parents=True)
    older = ("metrics.json", "probe.ipynb", "probe.html", "student/x", "mined.parquet")
    for name in older:  # an older run must not stand in
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("{}")
    timeout = 2 if case == "too slow" else 60
    with pytest.raises(LabError, match=cause) as caught:
        execute_smoke(write_probe(*body, **changes), tmp_path / "out", timeout=timeout)
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in folder.iterdir()) == ["probe.failed.ipynb"]
    kept = load(folder / "probe.failed.ipynb")
    assert kept.metadata["nbutils"]["error"] in str(caught.value)
    if case == "a LabError":  # one line in Jupyter, too
        (error,) = kept.cells[5].outputs
        assert (error.output_type, error.ename) == ("error", "LabError")
        assert error.traceback == ["LabError: mend the data"]


def test_an_error_that_a_tag_allows_is_still_an_error(write_probe, tmp_path):
    path = write_probe("1 / 0")
    page = load(path)
    page.cells[4].metadata["tags"] = ["raises-exception"]
    write(path, page)
    with pytest.raises(LabError, match="ZeroDivisionError"):
        execute_smoke(path, tmp_path / "out")


def test_another_python_registered_as_python3_is_not_used(tmp_path, monkeypatch):
    spec = tmp_path / "kernels" / "python3"
    spec.mkdir(parents=True)
    argv = ["/bin/false", "{connection_file}"]
    body = {"argv": argv, "display_name": "Other", "language": "python"}
    (spec / "kernel.json").write_text(json.dumps(body))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    assert OwnKernel(kernel_name="python3").kernel_spec.argv[0] == sys.executable


# -- pages that are refused before a kernel starts -------------------------------------

MORE = PARAMETERS + "\nfolder = out"
WORK = PARAMETERS + "\nprint(1)"
TYPO = PARAMETERS.replace("profile:", "profil:")
KIND = PARAMETERS.replace("dict", "str")
BAD_PAGES = {
    "shell line": (("!false",), {}, "not plain Python"),
    "shell value": (("files = !ls",), {}, "not plain Python"),
    "magic": (("%%bash\nfalse",), {}, "not plain Python"),
    "os.system": (("import os\nos.system('false')",), {}, "hides a command's failure"),
    "auto bar": (("from tqdm.auto import tqdm",), {}, "stuck at 0 %"),
    "auto bar, otherwise": (("from tqdm import auto",), {}, "stuck at 0 %"),
    "notebook bar": (("import tqdm.notebook as t",), {}, "stuck at 0 %"),
    "quit": (("if True:\n    quit()",), {}, "cell 5: quit ends the notebook early"),
    "no tag": ((), {"tag": ""}, "0 cells are tagged"),
    "derived value": ((), {"parameters": MORE}, "nothing else: .* stays stale"),
    "work among parameters": ((), {"parameters": WORK}, "and nothing else"),
    "another type": (
        (),
        {"parameters": KIND},
        "must set profile: str, overrides: dict",
    ),
    "missing parameter": ((), {"parameters": TYPO}, "must set profile: str"),
    "finish too early": (("run.finish({})",), {}, "the last code cell, and no other"),
    "no finish": ((), {"last": "print('done')"}, "the last code cell, and no other"),
}


@pytest.mark.parametrize("case", BAD_PAGES)
def test_a_faulty_page_is_refused_before_it_runs(case, write_probe, tmp_path):
    body, changes, cause = BAD_PAGES[case]
    with pytest.raises(LabError, match=cause) as caught:
        execute_smoke(write_probe(*body, **changes), tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_two_tagged_cells_another_name_and_a_truncated_file_are_refused(
    write_probe, tmp_path
):
    path = write_probe("b: int = 1")
    page = load(path)
    page.cells[4].metadata["tags"] = ["parameters"]
    write(path, page)
    with pytest.raises(LabError, match="2 cells are tagged"):
        execute_smoke(path, tmp_path / "out")
    copy = write_probe().rename(tmp_path / "copy.ipynb")
    with pytest.raises(LabError, match=r"pages\.start\('copy'"):
        execute_smoke(copy, tmp_path / "out")
    path.write_text('{"cells": [')
    with pytest.raises(LabError, match=r"probe\.ipynb is not a notebook"):
        execute_smoke(path, tmp_path / "out")


def test_a_text_that_looks_like_a_shell_line_is_fine(write_probe):
    path = write_probe('text = """\n!ls\n%%bash\n"""')
    check_source(load(path), "probe")


# -- a notebook's own side -------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    return start("probe", "smoke", {"seed": 2}, str(tmp_path))


def test_start_says_what_will_happen(capsys, run, tmp_path):
    said = capsys.readouterr().out
    assert "probe: profile smoke, seed 2" in said
    assert f"writes {tmp_path}/smoke/probe; network: not needed" in said
    assert "changed: seed = 2" in said
    assert Path.cwd() == ROOT and run.interactive


def test_start_refuses_a_misspelt_or_mistyped_setting(tmp_path):
    with pytest.raises(LabError, match="did you mean 'seed'"):
        start("probe", "smoke", {"sead": 1}, str(tmp_path))
    with pytest.raises(LabError, match="'bidirectional'"):
        start("probe", "smoke", {"bidirectional": "false"}, str(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_input_prefers_the_same_profiles_run_and_says_so(run, tmp_path, capsys):
    with pytest.raises(LabError, match="nbutils run earlier --profile smoke"):
        run.input("earlier", "part/table.csv")
    shipped = tmp_path / "data" / "shipped.csv"
    shipped.parent.mkdir()
    shipped.write_text("a")
    with pytest.raises(LabError, match="SHA256SUMS is missing"):
        run.input("earlier", "part/table.csv", shipped)
    write_sums(shipped.parent)
    assert run.input("earlier", "part/table.csv", shipped) == shipped
    assert "shipped; earlier has not run" in capsys.readouterr().out
    made = run.folder.parent / "earlier" / "part" / "table.csv"
    made.parent.mkdir(parents=True)
    made.write_text("b")  # but no metrics: that run failed, or is under way
    assert run.input("earlier", "part/table.csv", shipped) == shipped
    assert "shipped; earlier has not finished" in capsys.readouterr().out
    with pytest.raises(LabError, match="is from an unfinished run: run"):
        run.input("earlier", "part/table.csv")
    theirs = {**run.settings.flat(), "seed": 9}
    (made.parent.parent / "metrics.json").write_text(json.dumps({"settings": theirs}))
    assert run.input("earlier", "part/table.csv", shipped) == made
    assert "made with another seed" in capsys.readouterr().out
    (made.parent.parent / "metrics.json").write_text('{"sett')
    with pytest.raises(LabError, match=r"metrics\.json is damaged: run earlier again"):
        run.input("earlier", "part/table.csv", shipped)
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
    assert "0.375  NDCG@10" in capsys.readouterr().out


def test_a_figure_without_a_description_is_refused(run):
    with pytest.raises(LabError, match="has no description"):
        run.figure("x", (None, " "))


# -- several notebooks -----------------------------------------------------------------


def test_after_a_failure_the_rest_is_not_run_and_the_index_says_why(tmp_path):
    folder = tmp_path / "notebooks"
    folder.mkdir()
    bodies = {"a": "pass", "b": "raise ValueError('wrong <sum>')", "c": "pass"}
    for name, body in bodies.items():
        page = probe(body)
        page.cells[3].source = page.cells[3].source.replace("probe", name)
        nbformat.write(page, folder / f"{name}.ipynb")
    said: list[str] = []
    paths = [str(folder / f"{name}.ipynb") for name in bodies]
    outcomes = run_all(paths, str(tmp_path / "out"), "smoke", say=said.append)
    assert [o.state for o in outcomes] == ["done", "failed", "not run"]
    assert [line.split(" after")[0] for line in said] == ["a: done", "b: failed"]
    html = (tmp_path / "out" / "index.html").read_text()
    assert "ValueError: wrong &lt;sum&gt;" in html and "a.html" in html
    assert not (tmp_path / "out" / "smoke" / "c").exists()


def test_a_fault_in_a_later_page_stops_before_the_first_one_runs(write_probe, tmp_path):
    good, bad = write_probe(), tmp_path / "bad" / "probe.ipynb"
    bad.parent.mkdir()
    nbformat.write(probe("!ls"), bad)
    with pytest.raises(LabError, match="not plain Python"):
        run_all([str(good), str(bad)], str(tmp_path / "out"), "smoke")
    assert not (tmp_path / "out").exists()


def test_committed_pages_show_the_default_run_only():
    for other in ({"profile": "smoke"}, {"overrides": {"seed": 1}}, {"out": "x"}):
        with pytest.raises(LabError, match="show the default run"):
            run_all(["01"], keep=True, **other)


def test_a_committed_page_keeps_outputs_and_nothing_volatile(sound):
    executed = load(sound[0] / "probe.ipynb")
    assert executed.metadata["papermill"]["parameters"]["profile"] == "smoke"
    original = load(sound[0].parents[2] / "probe.ipynb")
    page = committed(original, executed)
    nbformat.validate(page)
    assert [c.source for c in page.cells] == [c.source for c in original.cells]
    counts = [c.execution_count for _, c in code_cells(page)]
    assert counts == list(range(1, len(counts) + 1))
    assert set(page.metadata) == {"kernelspec", "language_info", "nbutils"}
    assert all(set(c.metadata) <= {"tags"} for c in page.cells)
    text = nbformat.writes(page)
    assert "papermill" not in text and "injected" not in text
    check_outputs(page)
    check_fresh(page)
    page.cells[4].source += "\n# changed"
    with pytest.raises(LabError, match="newer than its outputs"):
        check_fresh(page)
    with pytest.raises(LabError, match="has not been run"):
        check_fresh(original)


BAD_OUTPUTS = {
    "bare figure": ({"image/png": ""}, "without alternative text"),
    "a drawing": ({"image/svg+xml": "<svg/>"}, "without alternative text"),
    "a widget": ({WIDGET: {}}, "shows a widget"),
    "too large": ({"text/plain": "x" * 410_000}, "over 400 kB"),
}


@pytest.mark.parametrize("case", BAD_OUTPUTS)
def test_an_output_that_would_break_the_page_is_refused(case, sound):
    page = load(sound[0] / "probe.ipynb")
    data, cause = BAD_OUTPUTS[case]
    page.cells[-1].outputs.append(new_output("display_data", data))
    with pytest.raises(LabError, match=cause):
        check_outputs(page)


def test_widgets_and_cells_that_did_not_complete_are_refused(sound):
    page = load(sound[0] / "probe.ipynb")
    page.metadata["widgets"] = {"state": {}}
    with pytest.raises(LabError, match=r"metadata\.widgets"):
        check_outputs(page)
    page.cells[-1].execution_count = None
    with pytest.raises(LabError, match="did not run"):
        check_outputs(page)


def test_notebooks_are_found_by_number_and_by_name():
    assert find("03").name == "03_positive_aware_mining.ipynb"
    assert find("03b").name == "03b_mining_in_depth.ipynb"
    assert find("06_evaluation").name == "06_evaluation.ipynb"
    with pytest.raises(LabError, match="did you mean '06_evaluation'"):
        find("06_evalution")
