"""Runs over seeds, and the command that makes them."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from sentence_transformers import SentenceTransformer
from typer.testing import CliRunner

from nbutils.__main__ import app
from nbutils.core import machine, retrieval
from nbutils.core.errors import LabError
from nbutils.core.files import read_table, write_json, write_table
from nbutils.core.records import read_records
from nbutils.core.settings import resolve
from nbutils.encoder.student import build_student, load_student
from nbutils.evaluation import runs, studies


def test_the_report_says_what_is_not_distinguishable(tmp_path):
    study, parts = studies.STUDIES["train"], []
    base = pd.DataFrame({"ndcg": np.linspace(0, 0.8, 30), "beats_n1": 1.0})
    for seed, gain in ((None, 0.0), (0, 0.1), (1, 0.101)):
        for split in retrieval.HELD_OUT:
            own = base.assign(split=split, query_id=[f"{split}/{n}" for n in range(30)])
            own["ndcg"] += gain
            parts.append(own.assign(run=study.key("trained", seed)))
    write_table(tmp_path / "scores.parquet", pd.concat(parts))
    lines = runs.report("train", tmp_path)
    assert len(lines) == 4 and all("2 seeds" in line for line in lines)
    for line in lines:
        assert ("not distinguishable" in line) == ("beats_n1" in line)


def test_shipped_seeds_are_complete_and_match_the_held_out_queries():
    table, records = studies.read_study("seeds")[0], read_records(resolve())
    usual = resolve().flat()
    assert all(usual[name] == value for name, value in studies.settings_of().items())
    for name in ("SmolLM2", "MiniLM"):
        own = table[table["variant"] == name]
        assert own["seed"].nunique() == 5
        for split in retrieval.HELD_OUT:
            queries = set(retrieval.local_set(split, records).queries)
            for _, part in own[own["split"] == split].groupby("seed"):
                assert set(part["query_id"]) == queries
    assert table["ndcg"].between(0, 1).all()


def test_the_command_refuses_bad_seeds_and_a_missing_gpu():
    runner = CliRunner()
    bad = runner.invoke(app, ["train", "--seeds", "one"])
    assert bad.exit_code == 1 and "takes numbers such as 0,1,2" in bad.output
    for command in ("train", "study bits"):  # or seed 0 would be trained
        unheard = runner.invoke(app, [*command.split(), "--set", "seed=3"])
        assert unheard.exit_code == 1 and "named by --seeds" in unheard.output
    paper = runner.invoke(app, ["train", "--profile", "paper"])
    assert paper.exit_code == 1 and "error:" in paper.output


def test_the_command_leaves_a_student_with_its_log_and_settings(tmp_path):
    arguments = ["train", "--profile", "smoke", "--out", str(tmp_path)]
    done = CliRunner().invoke(app, [*arguments, "--set", "pooling=mean"])
    assert done.exit_code == 0, done.output
    folder = tmp_path / "students" / "seed0"
    assert "train, trained, seed 0" in done.output and "1 seeds" in done.output
    assert f"students: {tmp_path}" in done.output.replace("\n", "")
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
    assert refused.exit_code == 1 and "pooling='mean' (now 'ata')" in refused.output
    assert json.loads((folder / "run.json").read_text()) == made


def test_a_setting_that_is_newer_than_a_folder_had_its_default_there(tmp_path):
    usual = resolve("smoke").flat()
    runs._own(tmp_path, usual)
    older = {name: value for name, value in usual.items() if name != "causalneg"}
    write_json(tmp_path / "settings.json", older)
    runs._own(tmp_path, usual)
    with pytest.raises(LabError, match=r"causalneg=0\.0 \(now 0\.05\)"):
        runs._own(tmp_path, {**usual, "causalneg": 0.05})


def test_all_seeds_of_a_variant_have_one_table_of_negatives(tmp_path):
    study, tables = replace(studies.STUDIES["sampling"], data="recordings"), []
    for seed in (1, 0):
        changes = {**study.variants["2 of the top 10"], "teachers": ["bm25"]}
        settings = resolve("smoke", {**changes, "seed": seed})
        own = runs._mined(
            settings, replace(study, data="recordings"), tmp_path / f"{seed}"
        )
        tables.append(read_table(own))
    pd.testing.assert_frame_equal(*tables)


def test_models_whose_names_end_alike_are_scored_apart(tmp_path, monkeypatch):
    scored = pd.DataFrame({"query_id": ["q"], "ndcg": [0.5], "split": ["x"]})
    monkeypatch.setattr(runs, "load_encoder", lambda settings, name: None)
    monkeypatch.setattr(runs, "set_scores", lambda *_: scored)
    names = ["a/seed0", "b/seed0", "c/MiniLM", "c/MiniLM"]
    table = runs.score_models(names, resolve("smoke"), None)
    assert table["variant"].tolist() == ["a/seed0", "b/seed0", "MiniLM"]
