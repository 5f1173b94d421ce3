"""Settings: unknown names and wrong types are errors that name the nearest."""

import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from nbutils.__main__ import app
from nbutils.core import files, settings
from nbutils.core.errors import LabError
from nbutils.core.profiles import PROFILES
from nbutils.core.sections import MINILM, SMOLLM2, Mining
from nbutils.core.settings import ROOT, parse_assignment, read_config, resolve
from nbutils.pages import execute

# -- profiles and overrides ------------------------------------------------------------


NAMED = f"""["']({"|".join(PROFILES)})["']"""
ASKS = re.compile(rf"([=!]=|\bin \(|\bcase) ?{NAMED}|{NAMED} ?([=!]=|:)")
"""Code that compares with a profile's name, or has one as the key of a table."""


def test_a_profile_is_data_and_nothing_asks_for_its_name():
    paths = [*(ROOT / "nbutils").rglob("*.py"), *(ROOT / "notebooks").glob("*.ipynb")]
    assert len(paths) > 30
    for path in paths:
        source = path.read_text().replace('\\"', '"')
        if path.name != "profiles.py":
            assert not ASKS.search(source), (path.name, ASKS.search(source))
    asking = "a.profile == 'smoke'", "if p in ('paper', 'x'):", "{'smoke': 1}[p]"
    assert all(map(ASKS.search, asking))
    assert not ASKS.search("start('x', profile='smoke')\nb == 'replay'")


def test_every_profile_and_setting_is_told_with_meaning_and_source():
    assert all(resolve(profile).profile == profile for profile in PROFILES)
    rows = {row["name"]: row for row in settings.table()}
    assert list(rows) == list(settings.PLACES)
    for row in rows.values():
        assert row["text"] and row["source"], row["name"]
        assert set(PROFILES) < set(row)
    perc = [rows["perc"][column] for column in ("workshop", "source", "section")]
    assert perc == [0.95, "NV-Retriever", "mining"]


@pytest.mark.parametrize(
    ("overrides", "cause"),
    [
        ({"sead": 1}, "unknown setting 'sead'; did you mean 'seed'"),
        ({"bidirectional": "false"}, "setting 'bidirectional' cannot be 'false'"),
        ({"seed": 1.0}, "setting 'seed' cannot be 1.0"),
        ({"pooling": "max"}, "setting 'pooling' cannot be 'max'"),
        ({"lora_r": 0}, "setting 'lora_r' cannot be 0"),
        ({"teachers": "bm25"}, r"'teachers' cannot be 'bm25': .* teachers=\[bm25\]"),
        ({"teachers": []}, "setting 'teachers' cannot be .*at least 1 item"),
        ({"families": ["helth"]}, "unknown family 'helth'; did you mean 'health'"),
        ({"families": ["home", "home"]}, "'families' holds 'home' twice"),
        ({"margin": float("inf")}, "'margin' cannot be inf: .* finite number"),
        ({"student": ["x"]}, "setting 'student' cannot be"),
        ({"selection": "sampled", "sample_from": 1}, "'sample_from' .* at least neg"),
        ({"profile": "smoke"}, "the profile is chosen with --profile"),
        ({1: 2}, "unknown setting 1"),
        ('{"seed": 1}', "overrides must be a mapping .* papermill .* with -y"),
    ],
)
def test_a_misspelt_or_mistyped_override_is_refused(overrides, cause):
    with pytest.raises(LabError, match=cause) as caught:
        resolve("smoke", overrides)
    assert "\n" not in str(caught.value)
    with pytest.raises(LabError, match="did you mean 'workshop'"):
        resolve("workshp", overrides)


def test_a_setting_has_a_place_a_flat_name_and_a_bare_one(tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text("mining:\n  perc: 0.8\nllm.mode: live\nlora_r: 2\n"
                      "learning_rate: 2e-4\nllm_model: 2e-4\nmin_score: 1e-3\n"
                      "synthesis:\n  # max_items: 3\n")  # fmt: skip
    given = {**read_config(config), "training.temperature": 0.1}
    found = resolve("smoke", given)
    assert (found.mining.perc, found.llm.mode) == (0.8, "live")
    assert found.training.temperature == 0.1 != found.llm.temperature
    assert (found.training.learning_rate, found.llm.model) == (2e-4, "2e-4")
    assert found.mining.min_score == 1e-3
    assert (found.flat()["lora_r"], found.flat()["batch_size"]) == (2, 8)
    assert parse_assignment("schedule=reverse") == ("schedule", "reverse")
    assert parse_assignment("max_cost=3")[0] == "llm_max_cost"
    with pytest.raises(LabError, match=r"unknown setting 'mining\.perk'"):
        resolve(overrides={"mining.perk": 1})
    assert found.changed(perc=0.7).mining.perc == 0.7
    with pytest.raises(KeyError, match="perk"):
        found.changed(perk=0.7)
    with pytest.raises(ValueError, match="frozen"):
        found.seed = 3
    with pytest.raises(LabError, match=r"unknown setting 'perk'.*did you mean 'perc'"):
        settings.changed(Mining(), perk=1)
    with pytest.raises(LabError, match="'perc' cannot be -1"):
        settings.changed(Mining(), perc=-1.0)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("- 1\n- 2\n", "must hold 'name: value' lines"),
        ("mining:\n\tperc: 0.9", "is not valid YAML: .*a tab, not spaces"),
        ("[a]: 1\n", "is not valid YAML"),
        (f"seed: {'9' * 5000}\n", "is not valid YAML"),
        ("seed: 2026-13-45\n", "is not valid YAML"),
        ("seed: \xff\xfe\n", "is not valid YAML"),
        ("sead: 1\n", "did you mean 'seed'"),
        ("seed: '3'\n", "setting 'seed' cannot be '3'"),
        ("llm.mode: live\nllm_mode: replay\n", "names llm_mode twice"),
    ],
)
def test_a_faulty_settings_file_is_named(text, cause, tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text(text, "latin-1")
    with pytest.raises(LabError, match=cause) as caught:
        resolve("smoke", read_config(config))
    assert "\n" not in str(caught.value)


def test_a_student_brings_its_template_and_layers_unless_they_are_set():
    def found(profile, **changes):
        encoder = resolve(profile, changes).encoder
        return encoder.text_format, encoder.student_layers

    assert found("workshop") == found("paper", student=SMOLLM2) == ("chat", 8)
    assert found("paper") == found("smoke") == ("inst", 0)
    assert found("paper", student=MINILM) == ("plain", 0)
    assert found("workshop", text_format="e5", student_layers=0) == ("e5", 0)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("bidirectional=false", False),
        ("seed = 7", 7),
        ("learning_rate=2e-4", 2e-4),
        ("min_score=1e-3", 1e-3),
        ("families=[health, home]", ["health", "home"]),
        ("llm_model=4", "4"),
        ("student=a=b", "a=b"),
    ],
)
def test_an_assignment_takes_the_settings_type(text, value):
    name, found = parse_assignment(text)
    assert found == value and type(found) is type(value)
    resolve("smoke", {name: found})


# -- the command line ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        ("run --set seed", "'seed' is not of the form name=value: write --set seed=1"),
        ("run --set seed = 1", "write name=value in one word"),
        ("mine nosuch --set seed = 1", "write name=value in one word"),
        ("run --set seed=many", "'seed' cannot be 'many'"),
        ("run --set seed=2026-13-45", "'seed' cannot be '2026-13-45'"),
        ("run --set teachers=bm25", "such as teachers=[bm25]"),
        ("run --set lora_r=true", "'lora_r' cannot be 'true'"),
        ("run --set families=[1", "'families' cannot be '[1'"),
        ("run --set families=[helth]", "did you mean 'health'"),
        ("run --profile papre", "did you mean 'paper'"),
        ("run 8", "unknown notebook '8'"),
        ("run 1 --write --profile smoke", "show the default run"),
        ("run --config nowhere.yaml", "nowhere.yaml does not exist"),
        ("mine nosuch --profile smoke", "nosuch is no folder: give one that holds"),
        ("grade nosuch --estimate", "nosuch is no folder: give one that holds"),
        ("settings --profile smok", "did you mean 'smoke'"),
        ("settings teechers", "'teechers' in it; did you mean 'teachers'"),
    ],
)
def test_a_fault_is_one_line_and_exit_code_1(words, cause, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, words.split())
    assert done.exit_code == 1, done.output
    assert cause in done.stderr and done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1 and not done.stdout


@pytest.mark.parametrize(
    ("fault", "code", "line"),
    [
        (KeyboardInterrupt(), 130, "stopped: what was finished is kept\n"),
        (OSError(28, "No space left", "a.csv"), 1, "error: a.csv cannot be used .*\n"),
        (LabError("mend it"), 1, "error: mend it\n"),
    ],
)
def test_a_stop_and_a_place_that_cannot_be_used_are_one_line_too(
    fault, code, line, monkeypatch
):
    def stopped(names, *_, **__):
        assert names == ["3"]
        raise fault

    monkeypatch.setattr(execute, "run_all", stopped)
    done = CliRunner().invoke(app, ["run", "3"])
    assert done.exit_code == code and re.fullmatch(line, done.stderr)


def test_a_second_recording_in_a_store_is_refused(tmp_path):
    store = tmp_path / "s.sqlite"
    words = ["record", "seed", "--profile", "smoke", "--set", f"llm_store={store}"]
    with files.alone(store):
        done = CliRunner().invoke(app, words)
    assert done.exit_code == 1 and "another run is writing" in done.stderr
    assert not store.exists()


def test_a_fault_shows_no_traceback_outside_of_tests_either():
    line = [sys.executable, "-m", "nbutils", "run", "--set", "sead=1"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 1 and not done.stdout
    assert done.stderr == "error: unknown setting 'sead'; did you mean 'seed'?\n"


def test_settings_prints_every_name_with_its_source_or_those_of_a_word():
    done = CliRunner().invoke(app, ["settings", "--profile", "smoke"])
    assert done.exit_code == 0 and "NV-Retriever" in done.stdout
    for name in settings.PLACES:
        assert name in done.stdout
    done = CliRunner().invoke(app, ["settings", "mining"])
    assert "perc" in done.stdout and "lora_r" not in done.stdout


def test_commands_and_headless_runs_load_no_models():
    code = "import sys, nbutils.__main__, nbutils.pages.execute\n"
    code += "assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_lab_error_is_a_value_error_and_one_line_in_jupyter():
    error = LabError("mend the data")
    assert isinstance(error, ValueError)
    assert error._render_traceback_() == ["LabError: mend the data"]
