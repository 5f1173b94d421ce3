"""Settings: unknown names and wrong types are errors that name the nearest."""

from __future__ import annotations

import ast
import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from nbutils.__main__ import app
from nbutils.core import fields, settings
from nbutils.core.errors import LabError
from nbutils.core.profiles import PROFILES
from nbutils.core.settings import ROOT, parse_assignment, resolve


def command(*words: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", "nbutils", *words]
    return subprocess.run(line, capture_output=True, text=True, cwd=ROOT)


# -- profiles and overrides ------------------------------------------------------------


@pytest.mark.parametrize("profile", PROFILES)
def test_every_profile_resolves_and_knows_its_name(profile):
    assert resolve(profile).profile == profile


def asks_for_a_profile(source: str) -> list[str]:
    """The comparisons, matches and tables of a source that name a profile."""
    found = []
    for node in ast.walk(ast.parse(source)):
        parts = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            parts = [node.value]
        elif isinstance(node, ast.Dict):
            parts = [key for key in node.keys if key]
        names = {
            inner.value
            for part in parts
            for inner in ast.walk(part)
            if isinstance(inner, ast.Constant) and isinstance(inner.value, str)
        }
        if names & set(PROFILES):
            found.append(ast.unparse(node))
    return found


def test_a_profile_is_data_and_nothing_asks_for_its_name():
    sources = {
        path.name: path.read_text()
        for path in (ROOT / "nbutils").rglob("*.py")
        if path.name != "settings.py"
    }
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        cells = json.loads(path.read_text())["cells"]
        code = ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]
        sources[path.name] = "\n".join(code)
    assert len(sources) > 30
    for name, source in sources.items():
        assert not asks_for_a_profile(source), name


@pytest.mark.parametrize(
    "source",
    [
        "a = settings.profile == 'smoke'",
        "if profile in ('paper', 'x'): pass",
        "f('smoke' != p)",
        "{'smoke': 1}[p]",
        "match p:\n    case 'paper': pass",
    ],
)
def test_a_question_for_the_profile_would_be_seen(source):
    assert asks_for_a_profile(source)
    assert not asks_for_a_profile("start('x', profile='smoke')\nb == 'replay'")


def test_every_setting_has_a_meaning_and_a_source():
    rows = settings.table()
    assert len(rows) == len(fields.PLACES)
    for row in rows:
        assert row["text"] and row["source"], row["name"]
        assert set(PROFILES) < set(row)
    perc = next(row for row in rows if row["name"] == "perc")
    assert (perc["workshop"], perc["source"]) == (0.95, "NV-Retriever")


@pytest.mark.parametrize(
    ("overrides", "cause"),
    [
        ({"sead": 1}, "unknown setting 'sead'; did you mean 'seed'"),
        ({"lora_rank": 4}, "unknown setting 'lora_rank'; did you mean 'lora_r'"),
        ({"bidirectional": "false"}, "setting 'bidirectional' cannot be 'false'"),
        ({"seed": 1.0}, "setting 'seed' cannot be 1.0"),
        ({"seed": True}, "setting 'seed' cannot be True"),
        ({"pooling": "max"}, "setting 'pooling' cannot be 'max'"),
        ({"lora_r": 0}, "setting 'lora_r' cannot be 0"),
        ({"teachers": "bm25"}, "setting 'teachers' cannot be 'bm25'"),
        ({"families": []}, "setting 'families' cannot be .*at least 1 item"),
        ({"teachers": []}, "setting 'teachers' cannot be .*at least 1 item"),
        ({"tasks": []}, "setting 'tasks' cannot be .*at least 1 item"),
        ({"families": ["helth"]}, "unknown family 'helth'; did you mean 'health'"),
        ({"families": ["home", "home"]}, "'families' holds 'home' twice"),
        ({"teachers": ["bm25", "bm25"]}, "'teachers' holds 'bm25' twice"),
        ({"margin": float("inf")}, "'margin' cannot be inf: .* finite number"),
        ({"margin": float("nan")}, "'margin' cannot be nan: .* finite number"),
        ({"profile": "smoke"}, "the profile is chosen with --profile"),
        ({1: 2}, "unknown setting 1"),
        ({None: 2}, "unknown setting None"),
    ],
)
def test_a_misspelt_or_mistyped_override_is_refused(overrides, cause):
    with pytest.raises(LabError, match=cause) as caught:
        resolve("smoke", overrides)
    assert "\n" not in str(caught.value)


def test_an_unknown_profile_names_the_nearest():
    with pytest.raises(LabError, match="did you mean 'workshop'"):
        resolve("workshp")


def test_settings_cannot_be_changed_afterwards():
    with pytest.raises(ValueError, match="frozen"):
        resolve().seed = 3


def test_precedence_is_profile_then_file_then_override(tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text("seed: 3\nlora_r: 2\n")
    found = resolve("smoke", {"seed": 4}, config=config)
    assert (found.seed, found.lora_r, found.batch_size) == (4, 2, 8)


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("- 1\n- 2\n", "must hold 'name: value' lines"),
        ("a: [1\n", "is not valid YAML"),
        ("a: 1\n b: 2\n\t- c", "is not valid YAML"),
        ("[a]: 1\n", "is not valid YAML"),
        ("sead: 1\n", "did you mean 'seed'"),
        ("1: 2\n", "unknown setting 1"),
        ("true: 2\n", "unknown setting True"),
        ("profile: smoke\n", "the profile is chosen with --profile"),
        ("families: []\n", "setting 'families' cannot be"),
        ("families: [industri]\n", "did you mean 'industry'"),
        ("margin: .nan\n", "setting 'margin' cannot be nan"),
        ("margin: inf\n", "setting 'margin' cannot be inf"),
        ("learning_rate: fast\n", "setting 'learning_rate' cannot be 'fast'"),
        ("seed: '3'\n", "setting 'seed' cannot be '3'"),
        ("bidirectional: 'no'\n", "setting 'bidirectional' cannot be 'no'"),
    ],
)
def test_a_faulty_settings_file_is_named(text, cause, tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text(text)
    with pytest.raises(LabError, match=cause) as caught:
        resolve("smoke", config=config)
    assert "\n" not in str(caught.value)
    with pytest.raises(LabError, match="does not exist"):
        resolve("smoke", config=tmp_path / "other.yaml")


def test_a_file_that_is_no_text_is_named(tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_bytes(b"seed: \xff\xfe\n")
    with pytest.raises(LabError, match="is not valid YAML"):
        resolve("smoke", config=config)


def test_a_number_in_short_form_is_a_number_in_a_settings_file(tmp_path):
    config = tmp_path / "mine.yaml"
    config.write_text("learning_rate: 2e-4\nllm_model: 2e-4\n")
    found = resolve("smoke", config=config)
    assert (found.learning_rate, found.llm_model) == (2e-4, "2e-4")


# -- name=value ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("bidirectional=false", False),
        ("seed=7", 7),
        ("learning_rate=2e-4", 2e-4),
        ("families=[health, home]", ["health", "home"]),
        ("llm_model=4", "4"),
        ("student=a=b", "a=b"),
    ],
)
def test_an_assignment_takes_the_settings_type(text, value):
    name, found = parse_assignment(text)
    assert found == value and type(found) is type(value)
    resolve("smoke", {name: found})


@pytest.mark.parametrize(
    ("text", "cause"),
    [
        ("seed", "not of the form name=value"),
        ("sead=1", "did you mean 'seed'"),
        ("seed=many", "'seed' cannot be 'many'"),
        ("seed=-1", "'seed' cannot be '-1'"),
        ("bidirectional=perhaps", "'bidirectional' cannot be 'perhaps'"),
        ("families=[1", "'families' cannot be"),
        ("families=[]", "'families' cannot be"),
        ("margin=.inf", "'margin' cannot be"),
        ("margin=nan", "'margin' cannot be"),
        ("profile=smoke", "the profile is chosen with --profile"),
    ],
)
def test_a_faulty_assignment_is_refused(text, cause):
    with pytest.raises(LabError, match=cause) as caught:
        parse_assignment(text)
    assert "\n" not in str(caught.value)


# -- the command line ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "cause"),
    [
        (("run", "--set", "sead=1"), "did you mean 'seed'"),
        (("run", "--profile", "papre"), "did you mean 'paper'"),
        (("run", "--set", "profile=smoke"), "the profile is chosen with --profile"),
        (("run", "--set", "families=[helth]"), "did you mean 'health'"),
        (("run", "08"), "unknown notebook '08'"),
        (("run", "01", "--write", "--profile", "smoke"), "show the default run"),
        (("run", "--config", "nowhere.yaml"), "nowhere.yaml does not exist"),
        (("settings", "--profile", "smok"), "did you mean 'smoke'"),
    ],
)
def test_a_fault_is_one_line_and_exit_code_1(words, cause):
    done = CliRunner().invoke(app, words)
    assert done.exit_code == 1
    assert cause in done.stderr and done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1 and not done.stdout


def test_a_fault_shows_no_traceback_outside_of_tests_either():
    done = command("run", "--set", "sead=1")
    assert done.returncode == 1 and not done.stdout
    assert done.stderr == "error: unknown setting 'sead'; did you mean 'seed'?\n"


def test_settings_prints_every_name_with_its_source():
    done = command("settings", "--profile", "smoke")
    assert done.returncode == 0
    for name in fields.PLACES:
        assert name in done.stdout
    assert "NV-Retriever" in done.stdout


def test_help_does_not_wait_for_the_models():
    done = command("--help")
    assert done.returncode == 0 and "notebooks" in done.stdout
    code = "import sys, nbutils.__main__; print('torch' in sys.modules)"
    line = [sys.executable, "-c", code]
    text = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    assert text.strip() == "False"


def test_headless_runs_do_not_load_the_models():
    code = "import sys, nbutils.headless; print('torch' in sys.modules)"
    line = [sys.executable, "-c", code]
    text = subprocess.run(line, capture_output=True, text=True, check=True).stdout
    assert text.strip() == "False"
