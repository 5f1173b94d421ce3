"""Every way in which a headless run was seen to pass wrongly is an error here."""

import html
import json
import os
import re
import sys
from pathlib import Path

import nbformat
import pytest
from conftest import probe
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from nbutils.core.errors import LabError
from nbutils.core.files import alone, write_json
from nbutils.core.settings import ROOT
from nbutils.pages import execute
from nbutils.pages.execute import OwnKernel, find, run_all
from nbutils.pages.index import PARTS, write_index, write_page
from nbutils.pages.source import alternative_texts, code_cells, committed, load, stale

FIGURE = """
from matplotlib.figure import Figure
figure = Figure(figsize=(2, 1))
figure.subplots().plot([1, 2, 3])
run.figure("rise", (figure, "Three points\\n that rise <from> 1 to 3"))
"""
SLOW = "import time\nwith run.timed('training'):\n    time.sleep(0.3)"
BARS = """
import importlib, os
from tqdm import tqdm
list(tqdm(range(3)))
list(importlib.import_module('tqdm' + '.auto').tqdm(range(3)))  # as libraries do it
print(os.getcwd(), os.environ['HF_HUB_OFFLINE'])
"""


def run_smoke(path: Path, out: Path, **changes) -> dict:
    """The metrics of a page's run; LabError where it failed."""
    (outcome,) = run_all([str(path)], str(out), "smoke", say=list, **changes)
    if outcome.state == "failed":
        raise LabError(outcome.error)
    return outcome.metrics


# -- a run that did its work -----------------------------------------------------------


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """(its folder, its metrics) of a run from another folder, with an override.

    The page was saved with another kernel; a run that died had left its lock.
    """
    home = tmp_path_factory.mktemp("good")
    page = probe(FIGURE, SLOW, BARS)
    page.metadata.kernelspec["name"] = "a-kernel-of-yours"
    nbformat.write(page, home / "probe.ipynb")
    folder = home / "out" / "smoke" / "probe"
    folder.mkdir(parents=True)
    (folder / "candidates-bm25.parquet").write_text("a table that names its inputs")
    (folder / "elsewhere").symlink_to(home)
    (folder.parent / ".probe.lock").write_text("left by a run that died")
    before = dict(os.environ)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        overrides = {"seed": 7, "lora_r": 4}
        report = run_smoke(home / "probe.ipynb", home / "out", overrides=overrides)
    assert dict(os.environ) == before  # a run leaves nothing behind
    return folder, report


def test_metrics_say_what_ran_and_where_the_time_went(good):
    folder, report = good
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


def test_the_page_ran_at_the_root_without_network_or_stored_bars(good):
    page = load(good[0] / "probe.ipynb")
    outputs = [o for c in page.cells for o in c.get("outputs", [])]
    assert any(f"{ROOT} 1\n" in o.get("text", "") for o in outputs)
    assert {o.name for o in outputs if "name" in o} == {"stdout"}
    assert "it/s" not in nbformat.writes(page) and "widgets" not in page.metadata


def test_a_new_run_keeps_candidate_tables_only(good):
    made = {"probe.ipynb", "probe.html", "metrics.json", "figures"}
    there = {p.name for p in good[0].iterdir()}
    assert there == made | {"candidates-bm25.parquet"}
    assert (good[0].parents[2] / "probe.ipynb").is_file()  # nothing behind a link went


def test_a_figure_has_its_file_its_alternative_text_and_its_line(good):
    folder, report = good
    text = "Three points that rise <from> 1 to 3"
    assert report["figures"][0]["alt"] == text
    assert (folder / "figures/rise.png").read_bytes().startswith(b"\x89PNG")
    page = load(folder / "probe.ipynb")
    shown, printed = next(c.outputs for c in page.cells if "Figure" in c.source)
    assert alternative_texts(shown) == [html.escape(text)]
    assert shown.data["text/html"].count("data:image/png;base64,iVBOR") == 1
    assert shown.data["text/plain"] == text and printed.text == f"{text}\n"


def test_the_pages_open_without_network_and_lead_to_each_other(good):
    folder, _ = good
    index = (folder.parents[1] / "index.html").read_text()
    page = (folder / "probe.html").read_text()
    for text in (index, page):
        assert 'lang="en"' in text and "prefers-color-scheme: dark" in text
        assert "<script" not in text and "<link" not in text
        assert 'src="http' not in text and "<th></th>" not in text
        assert 'alt="Three points that rise &lt;from&gt; 1 to 3"' in text
    assert 'href="../../index.html"' in page and "data:image/png;base64" in page
    for shown in (
        '<h3 id="smoke-probe">A probe</h3>', 'href="#smoke-probe"', "answer</th>",
        "<td>42</td>", 'src="smoke/probe/figures/rise.png"',
        'href="smoke/probe/probe.html"', 'href="smoke/probe/probe.ipynb"',
    ):  # fmt: skip
        assert shown in index, shown


def test_a_committed_page_keeps_outputs_and_nothing_volatile(good):
    executed = load(good[0] / "probe.ipynb")
    assert 'profile = "smoke"' in executed.cells[3].source
    original = load(good[0].parents[2] / "probe.ipynb")
    page = committed(executed)
    nbformat.validate(page)
    assert [c.source for c in page.cells] == [c.source for c in original.cells]
    done = [c for _, c in code_cells(page)]
    assert [c.execution_count for c in done] == list(range(1, len(done) + 1))
    assert sum(len(c.outputs) for c in done) == 5
    assert set(page.metadata) == {"kernelspec", "language_info", "nbutils"}
    assert all(set(c.metadata) <= {"tags"} for c in page.cells)
    text = nbformat.writes(page)
    assert "injected" not in text and 'execution"' not in text
    assert stale(page) == "" and "has not been run" in stale(original)
    page.cells[4].source += "\n# changed"
    assert "newer than its outputs" in stale(page)


def test_an_exported_page_has_contents_formulas_and_every_kind_of_output(tmp_path):
    image, told = {"image/png": "aGk="}, {"image/png": {"alt": "it <rises>"}}
    outputs = [
        new_output("stream", text="\x1b[31mred\x1b[0m & more"),
        new_output("display_data", {"text/html": "<table><th></th></table>"}),
        new_output("display_data", image, metadata=told),
        new_output("execute_result", {"text/plain": "a < b"}),
        new_output("error", ename="E", evalue="x", traceback=["E: x > y"]),
    ]
    text = "# One\n\n## 1. First `part`\n\n$$ \\frac{a}{b} $$\n\n$a_i$, `$5`, $\\frac{$"
    cells = [new_markdown_cell(text), new_code_cell("x = '<'", outputs=outputs)]
    nbformat.write(new_notebook(cells=cells), tmp_path / "page.ipynb")
    write_page(tmp_path / "page.ipynb")
    made = (tmp_path / "page.html").read_text()
    assert made.count("<math") == 2 and "<mfrac>" in made
    for shown in (
        '">1. First <code>part</code></a>', "<code>$5</code>", "<code>\\frac{</code>",
        "hl-ipython3", "red</span> &amp; more", "<td></td>", "a &lt; b",
        "E: x &gt; y", 'base64,aGk=" alt="it &lt;rises&gt;"',
    ):  # fmt: skip
        assert shown in made, shown


def test_the_index_adds_up_the_times_of_each_profile(tmp_path):
    assert "No notebook has been run." in write_index(tmp_path).read_text()
    report = {"metrics": [], "figures": [], "seed": 0, "device": "CPU"}
    for name, seconds, peak in (("a", 1.5, 2.0), ("b", 2.5, 3.0)):
        told = {"notebook": name, "peak_memory_gb": peak}
        told["seconds"] = dict.fromkeys(PARTS, seconds)
        write_json(tmp_path / f"smoke/{name}/metrics.json", report | told)
        nbformat.write(probe(), tmp_path / f"smoke/{name}/{name}.ipynb")
    (row,) = re.findall(r">all</th>(.*?)</tr>", write_index(tmp_path).read_text())
    assert re.findall(r"<td>([^<]*)", row) == ["4"] * len(PARTS) + ["3"]


# -- runs that must not pass -----------------------------------------------------------

FAULT = "from nbutils.core import LabError\nraise LabError('mend the data')"
OTHER = "run.settings = run.settings.changed(seed=5)"
BAD_RUNS = {
    "early exit": ("import sys\nsys.exit(0)", "left the notebook early"),
    "dead kernel": ("import os\nos._exit(0)", "ended the kernel"),
    "an exception that a tag allows": ("1 / 0", "ZeroDivisionError: division by zero"),
    "a LabError": (FAULT, r'^probe: cell 6 \("from .*"\): mend the data$'),
    "too slow": ("import time\ntime.sleep(60)", "took longer than 2 s"),
    "no metrics": (
        "run.finish = lambda metrics: None",
        r"metrics\.json does not exist",
    ),
    "other settings": (OTHER, "settings passed to it"),
}


@pytest.mark.parametrize("case", BAD_RUNS)
def test_a_faulty_run_is_an_error_with_a_named_cause(case, write_probe, tmp_path):
    body, cause = BAD_RUNS[case]
    folder = tmp_path / "out" / "smoke" / "probe"
    older = ("metrics.json", "probe.ipynb", "probe.html", "student/x", "mined.parquet")
    for name in older:  # an older run must not stand in
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("{}")
    path = write_probe(body, tag="lab90 parameters")
    page = load(path)
    page.cells[4].metadata["tags"] = ["raises-exception"] * ("tag" in case)
    page.cells[-1].outputs = [new_output("stream", text="of an older run")]
    nbformat.write(page, path)
    with pytest.raises(LabError, match=cause) as caught:
        run_smoke(path, tmp_path / "out", timeout=2 if case == "too slow" else 60)
    assert "\n" not in str(caught.value)
    assert [p.name for p in folder.iterdir()] == ["probe.failed.ipynb"]
    kept = load(folder / "probe.failed.ipynb")
    assert kept.metadata["nbutils"]["error"] in str(caught.value)
    assert "of an older run" not in nbformat.writes(kept)
    if case == "a LabError":  # one line in Jupyter, too
        (error,) = kept.cells[5].outputs
        assert (error.output_type, error.ename) == ("error", "LabError")
        assert error.traceback == ["LabError: mend the data"]


def test_a_kernel_that_cannot_be_reached_is_one_line(
    write_probe, tmp_path, monkeypatch
):
    def unreached(*args, **kwargs):  # as nbclient says it without a loopback interface
        raise RuntimeError("Kernel didn't respond in 60 seconds")

    monkeypatch.setattr(NotebookClient, "setup_kernel", unreached)
    with pytest.raises(LabError, match="loopback interface"):
        run_smoke(write_probe("1"), tmp_path / "out")


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


def test_places_that_another_run_has_or_that_are_no_folder_are_refused(
    write_probe, tmp_path
):
    path, folder = write_probe(), tmp_path / "out" / "smoke" / "probe"
    folder.mkdir(parents=True)
    with (
        alone(folder),
        pytest.raises(LabError, match=r"another run is writing .*probe: wait"),
    ):
        run_smoke(path, tmp_path / "out")
    assert list(folder.iterdir()) == []
    (tmp_path / "file").touch()
    with pytest.raises(LabError, match=r"cannot be written .*name another --out"):
        run_smoke(path, tmp_path / "file")


# -- several notebooks -----------------------------------------------------------------


@pytest.fixture(scope="module")
def several(tmp_path_factory):
    """(outcomes, what was said, folder) of the short paths of three probes."""
    home, said, paths = tmp_path_factory.mktemp("several"), [], []
    for name, body in (("a", "pass"), ("b", "raise ValueError('<sum>')"), ("c", "1")):
        page = probe(body, "undefined", tag="lab90 parameters")
        page.cells[3].source = page.cells[3].source.replace("probe", name)
        for at in (1, 3, 4):
            page.cells[at].metadata["tags"] = ["lab90" if at == 4 else "lab90-needs"]
        paths.append(home / f"{name}.ipynb")
        nbformat.write(page, paths[-1])
    names, out = map(str, paths), str(home / "out")
    return run_all([*names], out, "smoke", tag="lab90", say=said.append), said, home


def test_after_a_failure_the_rest_is_not_run_and_the_index_says_why(several):
    outcomes, said, home = several
    assert [o.state for o in outcomes] == ["done", "failed", "not run"]
    assert [line.split(" after")[0] for line in said] == ["a: done", "b: failed"]
    index = (home / "out/lab90/index.html").read_text()
    assert "ValueError: &lt;sum&gt;" in index and "a.html" in index
    assert not (home / "out/lab90/smoke/c").exists()


def test_the_short_path_runs_alone_and_beside_the_whole_pages(several, tmp_path):
    outcomes, _, home = several
    assert outcomes[0].folder == home / "out/lab90/smoke/a"
    assert outcomes[0].metrics["metrics"] == []
    short = load(home / "out/lab90/a.ipynb")
    assert len(short.cells) == 5 and not any(c.outputs for _, c in code_cells(short))
    with pytest.raises(LabError, match="01b_costs_and_asking_again: no cell is tagged"):
        run_all(["01b"], str(tmp_path), "smoke", tag="lab90")


def test_a_fault_in_a_later_page_stops_before_the_first_one_runs(write_probe, tmp_path):
    good, bad = write_probe(), tmp_path / "bad" / "probe.ipynb"
    bad.parent.mkdir()
    nbformat.write(probe("!ls"), bad)
    with pytest.raises(LabError, match="not plain Python"):
        run_all([str(good), str(bad)], str(tmp_path / "out"), "smoke")
    assert not (tmp_path / "out").exists()


def test_committed_pages_show_the_default_run_only():
    others = {"profile": "smoke", "overrides": {"seed": 1}, "out": "x", "tag": "lab90"}
    for name, value in others.items():
        with pytest.raises(LabError, match="show the default run"):
            run_all(["01"], keep=True, **{name: value})


def test_a_page_edited_while_it_runs_is_left_as_it_is(write_probe, monkeypatch):
    path = write_probe()
    monkeypatch.setattr(execute, "ROOT", path.parent)

    def run(page, folder, *_):
        write_json(folder / "metrics.json", {})
        path.write_text(path.read_text().replace("A probe", "My probe"))
        return load(page)

    monkeypatch.setattr(execute, "_execute", run)
    (outcome,) = run_all([str(path)], keep=True)
    assert outcome.state == "failed" and "was edited while it ran" in outcome.error
    assert "My probe" in path.read_text() and stale(load(path))


def test_notebooks_are_found_by_number_and_by_name():
    assert find("03").name == find("3").name == "03_positive_aware_mining.ipynb"
    assert find("03b").name == find("3b").name == "03b_mining_in_depth.ipynb"
    assert find("06_evaluation").name == "06_evaluation.ipynb"
    with pytest.raises(LabError, match="did you mean '06_evaluation'"):
        find("06_evalution")
