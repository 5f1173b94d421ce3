"""Rows, turns, processes of their own, and the command."""

import json

import pytest
import typer
from typer.testing import CliRunner

from benchmarks import __main__ as command
from benchmarks import llm
from benchmarks.harness import in_process, in_turn, measured, row
from nbutils.core.errors import LabError


def test_turns_change_their_order_and_the_first_round_does_not_count():
    called, numbers = [], iter([50, 9, 1, 8, 3, 7, 2, 6])
    ways = [lambda way=way: called.append(way) or next(numbers) for way in "ab"]
    (a,), (b,) = in_turn(ways, rounds=3)
    assert called == ["b", "a", "a", "b", "b", "a", "a", "b"]
    assert (a, b) == (2, 6)  # of 1, 7, 2 and of 8, 3, 6
    (named,) = in_turn([lambda: {"c": 1, "d": 2}], rounds=1)
    assert dict(named) == {"c": 1, "d": 2}


def test_memory_is_what_a_call_adds():
    bytearray(200_000_000)  # a higher peak before it is forgotten
    call = measured(lambda: len(bytearray(80_000_000)))
    assert call.result == 80_000_000 and call.seconds > 0
    assert 60 < call.more < 120 and call.peak * 1000 > call.more


def test_a_process_of_its_own_gives_its_value_or_the_reason():
    assert in_process(row, "a", 3.0, "s", 2.0) == row("a", 3.0, "s", peer=2.0)
    with pytest.raises(LabError, match=r"harness row .* failed: TypeError"):
        in_process(row, "a")


def test_the_command_prints_and_writes_rows(tmp_path, monkeypatch):
    rows = [row("replay_seconds", 3.25, "s"), row("b", 1.0, "MB", peer=4.0)]
    monkeypatch.setattr(llm, "rows", lambda out: rows)
    app, path = typer.Typer(), tmp_path / "rows.json"
    app.command()(command.main)
    done = CliRunner().invoke(app, ["llm", "--json", str(path)])
    assert done.exit_code == 0 and "replay_seconds" in done.stdout
    assert "0.25" in done.stdout and json.loads(path.read_text()) == rows
    done = CliRunner().invoke(app, ["lllm"])
    assert done.exit_code == 1 and "did you mean 'llm'" in done.stderr


def test_the_client_is_measured_beside_the_bare_sdk():
    found = llm.overhead_row(count=4, rounds=1)
    assert found["name"] == "client_overhead_ms" and abs(found["value"]) < 1000
