"""The README's own-data commands, as they are printed there, on a set of one's own."""

import re
import shlex

import pytest
from typer.testing import CliRunner

from nbutils.__main__ import app
from nbutils.core.settings import ROOT

OWN = (ROOT / "README.md").read_text().split("## On your own data")[1].split("\n## ")[0]
COMMANDS = re.findall(r"^\.venv/bin/python -m nbutils (.+)$", OWN, re.MULTILINE)


@pytest.fixture
def folder(own_set, monkeypatch):
    """The set, in a folder that is also the one of the commands."""
    monkeypatch.chdir(own_set)
    return own_set


def run(command: str, folder, *more: str) -> str:
    words = shlex.split(command.replace("FOLDER", str(folder)))
    done = CliRunner().invoke(app, [*words, *more])
    assert done.exit_code == 0, done.output
    return done.output


def test_a_set_is_mined_trained_on_and_scored(folder):
    mine, _ = COMMANDS
    run(mine, folder, "--profile", "smoke", "--set", "mining_method=naive")
    (code,) = re.findall(r"```python\n(.+?)```", OWN, re.DOTALL)
    small = 'resolve("smoke", overrides={"batch_size": 6, '
    code, changed = re.subn(r"resolve\(overrides=\{", small, code)
    assert changed == 1
    names = {"FOLDER": folder}
    exec(code, names)
    assert all(len(one.retrieved) == 4 for one in names["data"])
    assert (folder / "runs" / "mine" / "run.json").is_file()
    assert all(one.positive not in one.retrieved for one in names["data"])
    assert set(names["scores"]["query_id"]) == {f"q{n}" for n in range(6)}


def test_the_grading_command_tells_its_cost(folder):
    _, grade = COMMANDS
    assert grade.startswith("grade FOLDER")
    said = run(grade.replace("NAME", "gpt-4o-mini"), folder, "--estimate")
    assert "USD live" in said
