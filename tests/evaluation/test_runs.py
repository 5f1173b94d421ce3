"""The table of seeds, and the command that makes its rows."""

import json

import numpy as np
import pandas as pd
import pytest
from sentence_transformers import SentenceTransformer
from typer.testing import CliRunner

from nbutils.__main__ import app
from nbutils.core import machine, retrieval
from nbutils.core.errors import LabError
from nbutils.core.files import read_table, write_table
from nbutils.core.records import read_records
from nbutils.core.settings import resolve
from nbutils.encoder.student import build_student, load_student
from nbutils.evaluation import runs


def rows(seed: int, gain: float) -> pd.DataFrame:
    base = np.linspace(0, 0.8, 30)
    one = pd.DataFrame({"ndcg_before": base, "ndcg_after": base + gain})
    one = one.assign(beats_n1_before=1.0, beats_n1_after=1.0, seed=seed)
    parts = [
        one.assign(split=split, query_id=[f"{split}/{n}" for n in range(30)])
        for split in retrieval.HELD_OUT
    ]
    return pd.concat(parts)


def test_rows_of_a_seed_are_replaced_and_others_kept(tmp_path):
    path = tmp_path / "seeds.csv"
    runs.add_rows(path, rows(0, 0.1), resolve())
    runs.add_rows(path, rows(1, 0.1), resolve("workshop", {"seed": 1}))
    runs.add_rows(path, rows(0, 0.2), resolve())
    table = read_table(path)
    gains = table["ndcg_after"] - table["ndcg_before"]
    assert gains.groupby(table["seed"]).mean().round(3).to_dict() == {0: 0.2, 1: 0.1}
    gain = runs.gains(table, "held-out-tasks", "ndcg")
    assert gain["mean"] == pytest.approx(0.15)
    assert gain["low"] < 0 < gain["high"]  # two seeds that disagree prove little
    with pytest.raises(LabError, match="rows of other settings"):
        runs.add_rows(path, rows(2, 0.1), resolve("workshop", {"pooling": "mean"}))
    none = runs.gains(table, "held-out-tasks", "beats_n1")
    assert none["distinguishable"] == 0
    with pytest.raises(LabError, match="no scores of"):
        runs.gains(table, "dev", "ndcg")


def test_report_says_what_is_not_distinguishable(tmp_path):
    path = tmp_path / "seeds.csv"
    write_table(path, pd.concat([rows(0, 0.1), rows(1, 0.101)]))
    lines = runs.report(path)
    assert len(lines) == 4
    assert all("not distinguishable" in line for line in lines if "beats_n1" in line)
    assert not any("not distinguishable" in line for line in lines if "ndcg" in line)


def test_shipped_seeds_are_complete_and_match_the_held_out_queries():
    table, records = read_table(runs.SEEDS), read_records(resolve())
    minilm = read_table(runs.SEEDS.with_name("minilm_by_seed.csv"))
    assert table["seed"].nunique() == minilm["seed"].nunique() == 5
    assert set(minilm["query_id"]) == set(table["query_id"])
    assert runs.other_settings(resolve()) == {}
    changed = resolve(overrides={"pooling": "mean"})
    assert runs.other_settings(changed) == {"pooling": "ata"}
    for name in retrieval.HELD_OUT:
        queries = set(retrieval.local_set(name, records).queries)
        for _, part in table[table["split"] == name].groupby("seed"):
            assert set(part["query_id"]) == queries
    for column in ("ndcg_before", "ndcg_after"):
        assert table[column].between(0, 1).all()


def test_the_command_refuses_bad_seeds_and_a_missing_gpu():
    runner = CliRunner()
    bad = runner.invoke(app, ["train", "--seeds", "one"])
    assert bad.exit_code == 1 and "takes numbers such as 0,1,2" in bad.output
    paper = runner.invoke(app, ["train", "--profile", "paper"])
    assert paper.exit_code == 1 and "error:" in paper.output


def test_the_command_leaves_a_student_with_its_log_and_settings(tmp_path):
    out = tmp_path / "mean.csv"
    arguments = ["train", "--profile", "smoke", "--out", str(out)]
    done = CliRunner().invoke(app, [*arguments, "--set", "pooling=mean"])
    assert done.exit_code == 0, done.output
    folder = tmp_path / "mean.students" / "seed0"
    assert f"seed 0, 1 process: scores in {out}, student in {folder}" in done.output
    made = json.loads((folder / "run.json").read_text())
    settings = resolve("smoke", {"pooling": "mean"})
    assert made["settings"] == settings.flat()
    assert made["versions"] == machine.versions() and made["processes"] == 1
    steps, curve = (read_table(folder / f"{n}.csv") for n in ("steps", "curve"))
    assert len(steps) == 8
    assert list(curve["step"]) == [0, 2, 4, 6, 8]
    student = SentenceTransformer(str(folder), trust_remote_code=True)
    again = load_student(folder, settings)
    fresh = build_student(settings)
    vectors = [m.encode(["a text"]) for m in (student, again, fresh)]
    assert np.allclose(vectors[0], vectors[1], atol=1e-6)
    assert not np.allclose(vectors[0], vectors[2], atol=1e-4)  # it was trained
    # rows of other settings are refused before anything is trained
    refused = CliRunner().invoke(app, arguments)
    assert refused.exit_code == 1 and "rows of other settings" in refused.output
    assert json.loads((folder / "run.json").read_text()) == made
