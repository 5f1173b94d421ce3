"""Every way in which a headless run was seen to pass wrongly is an error here."""

from __future__ import annotations

import builtins
import json
import os
import time
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from conftest import PARAMETERS, probe
from nbformat.v4 import new_output

from nbutils.core import machine
from nbutils.core.errors import LabError
from nbutils.core.files import write_sums
from nbutils.core.settings import ROOT, resolve
from nbutils.pages.execute import NAMES, _clear, execute, find, own_kernel, run_all
from nbutils.pages.index import write_index, write_page
from nbutils.pages.run import start
from nbutils.pages.source import (
    WIDGET,
    check_fresh,
    check_outputs,
    check_parameters,
    check_source,
    code_cells,
    committed,
    load,
    parameters,
    write,
)

FIGURE = """
from matplotlib.figure import Figure
figure = Figure(figsize=(2, 1))
figure.subplots().plot([1, 2, 3])
run.figure("rise", (figure, "Three points\\n that rise <from> 1 to 3"))
"""


def execute_smoke(path: Path, out: Path, **changes):
    return execute(path, out, "smoke", changes.pop("overrides", {}), **changes)


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """One good run, launched from another folder, with an override and a figure."""
    folder = tmp_path_factory.mktemp("sound")
    path = folder / "probe.ipynb"
    slow = "import time\nwith run.timed('training'):\n    time.sleep(0.3)"
    quiet = (
        "import importlib, os\nfrom tqdm import tqdm\nlist(tqdm(range(3)))\n"
        "list(importlib.import_module('tqdm.auto').tqdm(range(3)))\n"  # as libraries do
        "print(os.getcwd(), os.environ['HF_HUB_OFFLINE'])"
    )
    nbformat.write(probe(FIGURE, slow, quiet), path)
    before = Path.cwd()
    os.chdir(folder)
    try:
        report = execute_smoke(path, folder / "out", overrides={"seed": 7, "lora_r": 4})
    finally:
        os.chdir(before)
    return folder / "out" / "smoke" / "probe", report


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
    assert seconds["import"] > 0  # the kernel's start and pandas at the least
    assert 0.03 < report["peak_memory_gb"] < 1.5


def test_the_working_folder_is_the_repository_and_there_is_no_network(sound):
    page = load(sound[0] / "probe.ipynb")
    text = [o.text for c in page.cells for o in c.get("outputs", []) if "text" in o]
    assert any(f"{ROOT} 1\n" in part for part in text)


def test_progress_bars_are_not_stored(sound):
    page = load(sound[0] / "probe.ipynb")
    assert "it/s" not in nbformat.writes(page)
    streams = {o.name for c in page.cells for o in c.get("outputs", []) if "name" in o}
    assert streams == {"stdout"}
    assert "widgets" not in page.metadata


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
    assert "from 1 to 3" in page.replace("&lt;from&gt;", "from")
    assert "data:image/png;base64" in page


# -- runs that must not pass -----------------------------------------------------------

BAD_RUNS = {
    "early exit": (("import sys\nsys.exit(0)",), {}, "left the notebook early"),
    "raised exit": (("raise SystemExit",), {}, "left the notebook early"),
    "dead kernel": (("import os\nos._exit(0)",), {}, "ended the kernel"),
    "an exception": (("x = [1]\nx[3]",), {}, "IndexError: list index out of range"),
    "a LabError": (
        ("from nbutils.errors import LabError\nraise LabError('mend the data')",),
        {},
        r'^probe: cell 6 \("from nbutils.errors import LabError"\): mend the data$',
    ),
    "too slow": (("import time\ntime.sleep(60)",), {}, "took longer than 2 s"),
    "no metrics": ((), {"last": "if not profile:\n    run.finish({})"}, "metrics.json"),
    "other settings": (
        ("run.settings = run.settings.changed('seed': 5)",),
        {},
        "settings passed to it",
    ),
    "not a number": (
        (),
        {"last": "run.finish({'loss': (float('nan'), '')})"},
        "'loss' is nan",
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


def test_a_new_run_keeps_candidate_tables_only(sound, tmp_path):
    folder = tmp_path / "out" / "smoke" / "probe"
    (folder / "student").mkdir(parents=True)
    (folder / "student" / "x").write_text("old")
    (folder / "elsewhere").symlink_to(tmp_path)
    for name in ("candidates-bm25.parquet", "mined.parquet"):
        (folder / name).write_text(name)
    _clear(folder)
    assert [p.name for p in folder.iterdir()] == ["candidates-bm25.parquet"]
    assert tmp_path.is_dir()
    _clear(tmp_path / "nowhere")


def test_an_error_that_a_tag_allows_is_still_an_error(write_probe, tmp_path):
    path = write_probe("1 / 0")
    page = load(path)
    page.cells[4].metadata["tags"] = ["raises-exception"]
    write(path, page)
    with pytest.raises(LabError, match="ZeroDivisionError"):
        execute_smoke(path, tmp_path / "out")


# -- pages that are refused before a kernel starts -------------------------------------

BAD_PAGES = {
    "shell line": (("!false",), {}, "not plain Python"),
    "shell value": (("files = !ls",), {}, "not plain Python"),
    "shell cell": (("%%bash\nfalse",), {}, "not plain Python"),
    "magic": (("%matplotlib inline",), {}, "not plain Python"),
    "os.system": (("import os\nos.system('false')",), {}, "hides a command's failure"),
    "auto bar": (("from tqdm.auto import tqdm",), {}, "stuck at 0 %"),
    "auto bar, otherwise": (("from tqdm import auto",), {}, "stuck at 0 %"),
    "notebook bar": (("import tqdm.notebook as t",), {}, "stuck at 0 %"),
    "quit": (("if True:\n    quit()",), {}, "ends the notebook early"),
    "no tag": ((), {"tag": ""}, "0 cells are tagged"),
    "derived value": (
        (),
        {"parameters": PARAMETERS + "\nsteps: int = 4 * 10"},
        "derived",
    ),
    "derived name": ((), {"parameters": PARAMETERS + "\nfolder = out"}, "derived"),
    "work in the parameters cell": (
        (),
        {"parameters": PARAMETERS + "\nprint(1)"},
        "no plain assignment",
    ),
    "default of another type": (
        (),
        {"parameters": PARAMETERS + "\nfast: bool = 'false'"},
        "does not fit its annotation",
    ),
    "missing parameter": (
        (),
        {"parameters": PARAMETERS.replace("profile:", "profil:")},
        "no parameter 'profile'; did you mean 'profil'",
    ),
    "finish too early": (("run.finish({})",), {}, "the last code cell, and no other"),
    "no finish": ((), {"last": "print('done')"}, "the last code cell, and no other"),
}


@pytest.mark.parametrize("case", BAD_PAGES)
def test_a_faulty_page_is_refused_before_it_runs(case, write_probe, tmp_path):
    body, changes, cause = BAD_PAGES[case]
    with pytest.raises(LabError, match=cause):
        execute_smoke(write_probe(*body, **changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_two_tagged_cells_are_refused(write_probe, tmp_path):
    path = write_probe("b: int = 1")
    page = load(path)
    page.cells[4].metadata["tags"] = ["parameters"]
    write(path, page)
    with pytest.raises(LabError, match="2 cells are tagged"):
        execute_smoke(path, tmp_path / "out")


def test_a_page_under_another_name_is_refused(write_probe, tmp_path):
    path = write_probe()
    copy = path.rename(tmp_path / "copy.ipynb")
    with pytest.raises(LabError, match=r"pages\.start\('copy'"):
        execute_smoke(copy, tmp_path / "out")


def test_a_truncated_notebook_is_named(tmp_path):
    (tmp_path / "probe.ipynb").write_text('{"cells": [')
    with pytest.raises(LabError, match=r"probe\.ipynb is not a notebook"):
        execute_smoke(tmp_path / "probe.ipynb", tmp_path / "out")


@pytest.mark.parametrize(
    ("passed", "cause"),
    [
        ({"fats": True}, "no parameter 'fats'; did you mean 'fast'"),
        ({"fast": "false"}, "'fast' must be bool, not the str 'false'"),
        ({"fast": 0}, "'fast' must be bool"),
        ({"steps": True}, "'steps' must be int"),
        ({"steps": 2.5}, "'steps' must be int, not the float"),
        ({"rate": "1e-3"}, "'rate' must be float"),
    ],
)
def test_a_misspelt_or_mistyped_parameter_is_refused(
    passed, cause, write_probe, tmp_path
):
    more = "\nfast: bool = True\nsteps = 10\nrate: float = -1e-3"
    path = write_probe(parameters=PARAMETERS + more)
    with pytest.raises(LabError, match=cause):
        execute_smoke(path, tmp_path / "out", **passed)
    declared = parameters(load(path))
    check_parameters(declared, {"fast": False, "steps": 3, "rate": 1})


def test_a_text_that_looks_like_a_shell_line_is_fine(write_probe):
    path = write_probe('text = """\n!ls\n%%bash\n"""')
    check_source(load(path), "probe")


# -- the machine -----------------------------------------------------------------------


def test_too_little_memory_is_refused_with_the_numbers():
    with pytest.raises(LabError, match=r"only \d+\.\d GB .* min_memory_gb is 90000"):
        machine.check_machine(resolve("smoke", {"min_memory_gb": 90000.0}))


def test_a_missing_gpu_names_the_profiles_for_a_cpu():
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("this machine has a GPU")
    with pytest.raises(LabError, match="workshop and smoke run on a CPU"):
        machine.check_machine(resolve("smoke", {"device": "cuda"}))


def test_live_mode_needs_a_key_or_a_server_for_every_notebook(
    monkeypatch, write_probe, tmp_path
):
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    live = resolve("smoke", {"llm_mode": "live"})
    with pytest.raises(LabError, match="OPENAI_API_KEY and OPENAI_BASE_URL"):
        machine.check_machine(live)
    overrides, out = {"llm_mode": "live"}, str(tmp_path / "out")
    for name in NAMES:
        with pytest.raises(LabError, match="export the key"):
            start(name, "smoke", overrides, out)
        with pytest.raises(LabError, match="export the key"):
            run_all([name], out, "smoke", overrides)
    assert not (tmp_path / "out").exists()
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:8000/v1")
    machine.check_machine(live)


def test_only_settings_that_need_the_network_may_use_it():
    for profile in ("smoke", "workshop"):
        settings = resolve(profile)
        assert machine.network_needs(settings) == []
        assert machine.environment(settings)["HF_HUB_OFFLINE"] == "1"
    paper = resolve("paper")
    assert "mistralai/Mistral-7B-Instruct-v0.2" in machine.network_needs(paper)
    assert "HF_HUB_OFFLINE" not in machine.environment(paper)


def test_threads_wait_without_spinning_unless_the_user_wants_it(monkeypatch):
    monkeypatch.delenv("OMP_WAIT_POLICY", raising=False)
    assert machine.environment(resolve())["OMP_WAIT_POLICY"] == "PASSIVE"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    assert machine.environment(resolve())["OMP_WAIT_POLICY"] == "ACTIVE"


def test_another_python_registered_as_python3_is_not_used(tmp_path, monkeypatch):
    spec = tmp_path / "kernels" / "python3"
    spec.mkdir(parents=True)
    argv = ["/bin/false", "{connection_file}"]
    body = {"argv": argv, "display_name": "Other", "language": "python"}
    (spec / "kernel.json").write_text(json.dumps(body))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    manager = own_kernel({"A": "1"})(kernel_name="python3")
    assert manager.kernel_spec.argv[0] == os.sys.executable
    assert manager.kernel_spec.env["A"] == "1"


# -- a notebook's own side -------------------------------------------------------------


@pytest.fixture
def run(tmp_path):
    started = start("probe", "smoke", {"seed": 2}, str(tmp_path))
    yield started
    started._imports.stop()


def test_start_says_what_will_happen(capsys, run, tmp_path):
    said = capsys.readouterr().out
    assert "probe: profile smoke, seed 2" in said
    assert f"writes {tmp_path}/smoke/probe; network: not needed" in said
    assert "changed: seed = 2" in said
    assert Path.cwd() == ROOT


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


def test_a_shipped_file_or_folder_is_read_only_as_it_was_listed(run, tmp_path):
    student = tmp_path / "models" / "student"
    (student / "1_Pooling").mkdir(parents=True)
    for name in ("weights.bin", "1_Pooling/config.json"):
        (student / name).write_text(name)
    with pytest.raises(LabError, match="SHA256SUMS is missing"):
        run.input("earlier", "student", student)
    write_sums(student.parent)
    assert run.input("earlier", "student", student) == student
    (student / "more.bin").write_text("")
    with pytest.raises(LabError, match=r"more\.bin is not listed"):
        run.input("earlier", "student", student)
    (student / "more.bin").unlink()
    (student / "1_Pooling" / "config.json").write_text("{}")
    with pytest.raises(LabError, match=r"config\.json is truncated or changed"):
        run.input("earlier", "student", student)
    assert run.input("earlier", "w", student / "weights.bin").name == "weights.bin"
    (student / "1_Pooling" / "config.json").unlink()
    with pytest.raises(LabError, match=r"config\.json is missing"):
        run.input("earlier", "student", student)


class Clock:
    """A clock that goes only when it is told to."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        monkeypatch.setattr(time, "perf_counter", lambda: self.now)

    def go(self, seconds: float) -> None:
        self.now += seconds


@pytest.fixture
def clock(monkeypatch, run):
    return Clock(monkeypatch)


def test_a_timed_part_inside_another_is_counted_once(run, clock):
    with run.timed("training"):
        clock.go(5)
        with run.timed("encoding"):
            clock.go(10)
        clock.go(2)
    seconds = run.seconds()
    assert seconds["encoding"] == 10
    assert seconds["training"] == 7
    with pytest.raises(LabError, match="known parts are encoding, training"):
        run.timed("reading").__enter__()


def test_first_imports_are_counted_as_import(run, clock, tmp_path, monkeypatch):
    (tmp_path / "slow_module.py").write_text("import slow_inner\nGO(10)\n")
    (tmp_path / "slow_inner.py").write_text("GO(20)\n")
    monkeypatch.setattr(builtins, "GO", clock.go, raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    boot = run.seconds()["import"]
    with run.timed("training"):
        import slow_module  # noqa: F401

        clock.go(5)
    seconds = run.seconds()
    assert seconds["import"] - boot == 30
    assert seconds["training"] == 5


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


def test_after_a_failure_the_rest_is_not_run_and_the_index_says_why(
    tmp_path, monkeypatch
):
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
    with pytest.raises(LabError, match="show the default run"):
        run_all(["01"], profile="smoke", keep=True)
    with pytest.raises(LabError, match="show the default run"):
        run_all(["01"], overrides={"seed": 1}, keep=True)


def test_a_committed_page_keeps_outputs_and_nothing_volatile(sound, tmp_path):
    executed = load(sound[0] / "probe.ipynb")
    assert executed.metadata["papermill"]["parameters"]["profile"] == "smoke"
    original = load(sound[0].parent.parent.parent / "probe.ipynb")
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


def test_widgets_in_the_metadata_are_refused(sound):
    page = load(sound[0] / "probe.ipynb")
    page.metadata["widgets"] = {"state": {}}
    with pytest.raises(LabError, match=r"metadata\.widgets"):
        check_outputs(page)


def test_a_cell_without_an_execution_count_did_not_complete(sound):
    page = load(sound[0] / "probe.ipynb")
    page.cells[-1].execution_count = None
    with pytest.raises(LabError, match="did not run"):
        check_outputs(page)


def test_notebooks_are_found_by_number_and_by_name():
    assert find("03").name == "03_positive_aware_mining.ipynb"
    assert find("06_evaluation").name == "06_evaluation.ipynb"
    with pytest.raises(LabError, match="did you mean '06_evaluation'"):
        find("06_evalution")
