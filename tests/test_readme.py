"""The README's own-data commands, as they are printed there, on a set of one's own."""

from __future__ import annotations

import json
import re
import shlex

import pytest
from typer.testing import CliRunner

from nbutils.__main__ import app
from nbutils.core.settings import ROOT

OWN = (ROOT / "README.md").read_text().split("## On your own data")[1].split("\n## ")[0]
COMMANDS = re.findall(r"^\.venv/bin/python -m nbutils (.+)$", OWN, re.MULTILINE)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A set in BEIR's layout, in a folder that is also the one of the commands."""
    texts = {f"d{n}": f"document {n} of {n * 7}" for n in range(12)}
    rows = {"corpus": texts, "queries": {f"q{n}": f"which is {n}" for n in range(6)}}
    for name, own in rows.items():
        lines = [json.dumps({"_id": i, "text": text}) for i, text in own.items()]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
    (tmp_path / "qrels").mkdir()
    pairs = "".join(f"q{n}\td{n}\t1\n" for n in range(6))
    for split in ("train", "test"):
        table = "query-id\tcorpus-id\tscore\n" + pairs
        (tmp_path / f"qrels/{split}.tsv").write_text(table)
    monkeypatch.chdir(tmp_path)
    return tmp_path


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
    assert all(one.retrieved for one in names["data"])
    assert all(one.positive not in one.retrieved for one in names["data"])
    assert set(names["scores"]["query_id"]) == {f"q{n}" for n in range(6)}


def test_the_grading_command_tells_its_cost(folder):
    _, grade = COMMANDS
    assert grade.startswith("grade FOLDER")
    said = run(grade.replace("NAME", "gpt-4o-mini"), folder, "--estimate")
    assert "USD live" in said
