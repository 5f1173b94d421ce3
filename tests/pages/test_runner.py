"""Every way in which a headless run was seen to pass wrongly is an error here."""

from __future__ import annotations

import html
import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from conftest import PARAMETERS, probe
from filelock import FileLock
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from nbutils.core.errors import LabError
from nbutils.core.files import write_sums
from nbutils.core.settings import ROOT
from nbutils.pages.execute import OwnKernel, find, run_all
from nbutils.pages.index import write_index, write_page
from nbutils.pages.run import start, table
from nbutils.pages.source import (
    WIDGET,
    alternative_texts,
    check_fresh,
    check_outputs,
    check_source,
    code_cells,
    committed,
    load,
    write,
    yours,
)

FIGURE = """
from matplotlib.figure import Figure
figure = Figure(figsize=(2, 1))
figure.subplots().plot([1, 2, 3])
run.figure("rise", (figure, "Three points\\n that rise <from> 1 to 3"))
"""


def execute_smoke(path: Path, out: Path, **changes):
    """The metrics of a page's run; LabError where it failed."""
    (outcome,) = run_all([str(path)], str(out), "smoke", say=list, **changes)
    if outcome.state == "failed":
        raise LabError(outcome.error)
    return outcome.metrics


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
    there = {p.name for p in sound[0].iterdir()}
    made = {"probe.ipynb", "probe.html", "metrics.json", "figures"}
    assert there == made | {"candidates-bm25.parquet"}
    assert (sound[0].parents[2] / "probe.ipynb").is_file()  # nothing behind a link went


def test_a_figure_has_its_file_its_alternative_text_and_its_line(sound):
    folder, report = sound
    text = "Three points that rise <from> 1 to 3"
    assert report["figures"][0]["alt"] == text
    assert (folder / "figures/rise.png").read_bytes().startswith(b"\x89PNG")
    page = load(folder / "probe.ipynb")
    shown, printed = next(c.outputs for c in page.cells if "Figure" in c.source)
    assert alternative_texts(shown) == [html.escape(text)]
    assert shown.data["text/html"].count("data:image/png;base64,iVBOR") == 1
    assert shown.data["text/plain"] == text and printed.text == f"{text}\n"


def test_the_pages_open_without_network_and_lead_to_each_other(sound):
    folder, _ = sound
    write_page(folder / "probe.ipynb")
    index = write_index(folder.parent.parent).read_text()
    page = (folder / "probe.html").read_text()
    for text in (index, page):
        assert 'lang="en"' in text and "prefers-color-scheme: dark" in text
        assert "<script" not in text and "<link" not in text
        assert 'src="http' not in text and "<th></th>" not in text
        assert 'alt="Three points that rise &lt;from&gt; 1 to 3"' in text
    assert '<h3 id="smoke-probe">A probe</h3>' in index
    assert 'href="#smoke-probe"' in index and 'href="../../index.html"' in page
    assert "answer</th>" in index and "<td>42</td>" in index
    assert 'src="smoke/probe/figures/rise.png"' in index
    assert 'href="smoke/probe/probe.html"' in index
    assert 'href="smoke/probe/probe.ipynb"' in index
    assert "data:image/png;base64" in page


def test_an_exported_page_has_contents_formulas_and_every_kind_of_output(tmp_path):
    outputs = [
        new_output("stream", text="\x1b[31mred\x1b[0m & more"),
        new_output("display_data", {"text/html": "<table><th></th></table>"}),
        new_output(
            "display_data",
            {"image/png": "aGk="},
            metadata={"image/png": {"alt": "it <rises>"}},
        ),
        new_output("execute_result", {"text/plain": "a < b"}),
        new_output("error", ename="E", evalue="x", traceback=["E: x > y"]),
    ]
    text = "# One\n\n## 1. First `part`\n\n$$ \\frac{a}{b} $$\n\n$a_i$, `$5`, $\\frac{$"
    page = new_notebook(
        cells=[new_markdown_cell(text), new_code_cell("x = '<'", outputs=outputs)]
    )
    write(tmp_path / "page.ipynb", page)
    write_page(tmp_path / "page.ipynb")
    made = (tmp_path / "page.html").read_text()
    anchor = re.search(r'<h2 id="([^"]+)">1. First <code>part</code></h2>', made)[1]
    assert f'<a href="#{anchor}">1. First <code>part</code></a>' in made
    assert made.count("<math") == 2 and "<mfrac>" in made
    assert "<code>$5</code>" in made and "<code>\\frac{</code>" in made
    for shown in (
        "hl-ipython3",
        "red</span> &amp; more",
        "<td></td>",
        "a &lt; b",
        "E: x &gt; y",
        'base64,aGk=" alt="it &lt;rises&gt;"',
    ):
        assert shown in made, shown


def test_an_index_of_nothing_says_so(tmp_path):
    assert "No notebook has been run." in write_index(tmp_path).read_text()


# -- runs that must not pass -----------------------------------------------------------

FAULT = "from nbutils.core import LabError\nraise LabError('mend the data')"
INFINITE = "run.finish({'x': (float('nan'), '')})"
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
    "not a number": ((), {"last": INFINITE}, "'x' is nan"),
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
    path = write_probe(*body, **changes)
    page = load(path)
    page.cells[-1].outputs = [new_output("stream", text="of an older run")]
    write(path, page)
    timeout = 2 if case == "too slow" else 60
    with pytest.raises(LabError, match=cause) as caught:
        execute_smoke(path, tmp_path / "out", timeout=timeout)
    assert "\n" not in str(caught.value)
    assert sorted(p.name for p in folder.iterdir()) == ["probe.failed.ipynb"]
    kept = load(folder / "probe.failed.ipynb")
    assert kept.metadata["nbutils"]["error"] in str(caught.value)
    assert "of an older run" not in nbformat.writes(kept)
    if case == "a LabError":  # one line in Jupyter, too
        (error,) = kept.cells[5].outputs
        assert (error.output_type, error.ename) == ("error", "LabError")
        assert error.traceback == ["LabError: mend the data"]


def test_an_error_that_a_tag_allows_is_still_an_error(write_probe, tmp_path):
    path = write_probe("1 / 0", tag="lab90 parameters")
    page = load(path)
    page.cells[4].metadata["tags"] = ["raises-exception"]
    write(path, page)
    with pytest.raises(LabError, match="ZeroDivisionError"):
        execute_smoke(path, tmp_path / "out")


def test_a_kernel_that_cannot_be_reached_is_one_line(
    write_probe, tmp_path, monkeypatch
):
    def unreached(*args, **kwargs):  # as nbclient says it without a loopback interface
        raise RuntimeError("Kernel didn't respond in 60 seconds")

    monkeypatch.setattr(NotebookClient, "setup_kernel", unreached)
    with pytest.raises(LabError, match="loopback interface"):
        execute_smoke(write_probe("1"), tmp_path / "out")


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
    "help": (("print?",), {}, "not plain Python"),
    "syntax": (
        ("x = 1\nif x\n    x",),
        {},
        "line 2: 'if x' has a syntax error: expected",
    ),
    "os.system": (("import os\nos.system('false')",), {}, "hides a command's failure"),
    "quit": (("if True:\n    quit()",), {}, "cell 5: quit ends the notebook early"),
    "no tag": ((), {"tag": ""}, "0 cells are tagged"),
    "derived value": ((), {"parameters": MORE}, "nothing else: .* stays stale"),
    "work among parameters": ((), {"parameters": WORK}, "and nothing else"),
    "another type": ((), {"parameters": KIND}, "must set profile: str, overrides"),
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


def test_a_page_of_another_name_and_a_truncated_file_are_refused(write_probe, tmp_path):
    path = write_probe()
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
    with pytest.raises(LabError, match=r"metrics\.json is not JSON"):
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
    assert "2 numbers in metrics.json" in capsys.readouterr().out


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
    assert 'profile = "smoke"' in executed.cells[3].source
    original = load(sound[0].parents[2] / "probe.ipynb")
    page = committed(executed)
    nbformat.validate(page)
    assert [c.source for c in page.cells] == [c.source for c in original.cells]
    counts = [c.execution_count for _, c in code_cells(page)]
    assert counts == list(range(1, len(counts) + 1))
    assert set(page.metadata) == {"kernelspec", "language_info", "nbutils"}
    assert all(set(c.metadata) <= {"tags"} for c in page.cells)
    text = nbformat.writes(page)
    assert "injected" not in text and 'execution"' not in text
    check_outputs(page)
    check_fresh(page)
    page.cells[4].source += "\n# changed"
    with pytest.raises(LabError, match="newer than its outputs"):
        check_fresh(page)
    with pytest.raises(LabError, match="has not been run"):
        check_fresh(original)


BAD_OUTPUTS = {
    "bare figure": ({"image/png": ""}, "without alternative text"),
    "bare tag": (
        {"text/html": '<img alt="a"><img src="x">'},
        "without alternative text",
    ),
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


def test_a_cell_that_did_not_complete_is_refused(sound):
    page = load(sound[0] / "probe.ipynb")
    page.cells[-1].execution_count = None
    with pytest.raises(LabError, match="did not run"):
        check_outputs(page)


def test_notebooks_are_found_by_number_and_by_name():
    assert find("03").name == "03_positive_aware_mining.ipynb"
    assert find("3") == find("03") and find("03b").name.startswith("03b_mining")
    assert find("06_evaluation").name == "06_evaluation.ipynb"
    with pytest.raises(LabError, match="did you mean '06_evaluation'"):
        find("06_evalution")


def test_two_runs_in_one_folder_are_noticed_and_a_dead_one_is_not_waited_for(
    write_probe, tmp_path
):
    path, folder = write_probe(), tmp_path / "out" / "smoke"
    folder.mkdir(parents=True)
    (folder / ".probe.lock").write_text("left by a run that died")
    with (
        FileLock(folder / ".probe.lock"),
        pytest.raises(LabError, match=r"another run is writing .*probe: wait"),
    ):
        execute_smoke(path, tmp_path / "out")
    assert not (folder / "probe" / "probe.failed.ipynb").exists()
    page = load(path)
    page.metadata.kernelspec["name"] = "a-kernel-of-yours"
    write(path, page)
    assert execute_smoke(path, tmp_path / "out")["metrics"]


def test_a_folder_that_cannot_be_written_is_said_in_one_line(
    write_probe, tmp_path, monkeypatch
):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(LabError, match=r"cannot be written .*name another --out"):
        execute_smoke(write_probe(), tmp_path / "out")
    monkeypatch.setattr("os.access", lambda *_: False)  # somebody else made it
    with pytest.raises(LabError, match=r"\(Permission denied\): name another --out"):
        start("probe", "smoke", out=str(tmp_path / "other"))


def test_a_page_that_somebody_works_on_is_told_from_a_stale_one(sound, tmp_path):
    page = committed(load(sound[0] / "probe.ipynb"))
    folder = tmp_path / "notebooks"
    folder.mkdir()
    path = folder / "probe.ipynb"

    def git(*words):
        named = ("-c", "user.name=a", "-c", "user.email=a@b.c")
        subprocess.run(["git", *named, *words], cwd=folder, check=True)

    write(path, page)
    assert yours(path) == ""  # as the command wrote it, git or not
    git("init", "-q")
    git("add", "probe.ipynb")
    git("commit", "-qm", "a page")
    page.cells[4].source += "\n# my answer"
    write(path, page)
    assert "'git checkout notebooks/probe.ipynb' restores it" in yours(path)
    git("commit", "-qam", "stale")
    assert yours(path) == ""  # a fault of the house, for check_fresh
    page.metadata["language_info"]["version"] = "3.11"  # as JupyterLab saves it
    write(path, page)
    assert yours(path)


def test_a_table_is_whole_and_its_headers_name_rows_and_columns(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    frame = pd.DataFrame(
        {
            "claim": ["long " * 50, None],
            "ok": [True, False],
            "x": [0.12345, float("nan")],
        }
    )
    table(frame, digits=2)
    table(frame.set_index("claim").rename_axis(None), index=False)
    table(frame.assign(n=1000).pivot_table(["x", "n"], "ok", aggfunc="min"))
    first, second, third = (data["text/html"] for data in shown)
    assert "long " * 50 in first and "<td>0.12</td>" in first and "nan" not in first
    assert ">yes</td>" in first and ">no</td>" in first and "True" not in first
    assert '<td></td><th scope="col"' in first and '<th scope="row">1</th>' in first
    assert first.count("text-align:left") == 5  # two headers, three cells
    assert (
        '<th scope="row"' not in second and "0.123" in second and "long" not in second
    )
    assert '<th scope="col" style="text-align:left">ok</th>' in third
    assert '<th scope="row" style="text-align:left">yes</th><td>1,000' in third
    assert not re.search(r"<th[^>]*></th>", first + second + third)
    kinds = pd.MultiIndex.from_tuples([("a", 1), ("a", 2)], names=["x", None])
    letters = pd.CategoricalIndex(["x", "y"])
    table(
        pd.DataFrame([[1, 2.5], [3, None]], kinds, letters)
    )  # a name twice, categories, several levels
    assert re.findall(r"<t[hd]\b[^>]*>([^<]*)", shown[-1]["text/html"]) == [
        *("x", "", "x", "y"), *("a", "1", "1", "2.500"), *("a", "2", "3", ""),
    ]  # fmt: skip
    table(frame, fold="all <claims>")
    folded = shown[-1]["text/html"]
    assert folded.startswith("<details><summary>all &lt;claims&gt;</summary><table>")
    assert folded.endswith("</table></details>")
