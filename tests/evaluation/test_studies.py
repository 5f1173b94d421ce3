"""Sweeps: which runs they need, that each is made once, and how they are compared."""

import json

import pandas as pd
import pytest
from typer.testing import CliRunner

from nbutils.__main__ import app
from nbutils.core.errors import LabError
from nbutils.core.files import alone, read_table
from nbutils.core.records import read_records
from nbutils.core.retrieval import read_set
from nbutils.core.settings import resolve
from nbutils.encoder.student import build_student
from nbutils.evaluation import runs, studies
from nbutils.evaluation.scores import set_scores
from nbutils.mining import miner
from nbutils.training import loop
from nbutils.training.instances import set_instances

TINY = {
    "student": "tiny-bert", "families": ["health", "industry"], "max_items": 12,
    "steps_per_level": 1, "warmup_steps": 1, "batch_size": 4, "mini_batch": 4,
}  # fmt: skip


def key(study: str, variant: str, seed: int | None = 0) -> str:
    return studies.STUDIES[study].key(variant, seed)


def test_runs_are_named_by_what_they_change():
    for name, study in studies.STUDIES.items():
        for variant in study.variants:
            resolve(overrides=study.changes(variant))
        keys = [key(name, variant) for variant in study.variants]
        assert len(set(keys)) == len(keys), name
    ata = key("pooling", "ata")
    assert ata == key("schedule", "curriculum")  # studies share what is the same
    assert ata not in (key("pooling", "mean"), key("seeds", "SmolLM2"))
    assert ata != key("pooling", "ata", 1)
    assert key("train", "trained") == key("seeds", "SmolLM2")
    untrained = key("schedule", "reverse", None)
    assert untrained == key("schedule", "fixed-1", None) == key("pooling", "ata", None)
    assert untrained != key("pooling", "mean", None)
    assert key("scifact", "naive", None) != key("mining", "naive", None)
    # what is asked for reaches every variant, but not what it changes itself
    changes = studies.STUDIES["pooling"].changes("mean", {"pooling": "ata", "seed": 3})
    assert changes["pooling"] == "mean" and changes["seed"] == 3


def test_no_shipped_run_is_without_its_study():
    """A number changed in studies.yaml would leave its runs behind, and their hours."""
    shipped = studies.read_tables(studies.SHIPPED)["scores"]["run"].unique()
    seeds = {None, *(json.loads(run).get("seed") for run in shipped)}
    named = {
        study.key(variant, seed)
        for study in studies.STUDIES.values()
        for variant in study.variants
        for seed in seeds
    }
    assert set(shipped) <= named


@pytest.fixture
def tiny(monkeypatch):
    mean = {"mean": {"pooling": "mean"}}
    flat = studies.Study(mean, TINY, graded=True)
    study = studies.Study(
        {**mean, "ata": {}}, TINY, curve=True, graded=True, cosines=True
    )
    monkeypatch.setitem(studies.STUDIES, "flat", flat)
    monkeypatch.setitem(studies.STUDIES, "tiny", study)


def test_a_study_is_resumed_and_makes_no_run_twice(tiny, tmp_path, monkeypatch):
    state, whole = {"runs": 0, "stop": 2}, loop.train

    def counted(*args, **kwargs):
        if state["runs"] == state["stop"]:
            raise KeyboardInterrupt
        assert all(one.graded for one in args[1])
        state["runs"] += 1
        return whole(*args, **kwargs)

    monkeypatch.setattr(loop, "train", counted)
    runs.run_study("flat", [0], tmp_path)
    with pytest.raises(KeyboardInterrupt):
        runs.run_study("tiny", [0, 1], tmp_path)
    with pytest.raises(LabError, match="no run of ata"):
        studies.read_study("tiny", tmp_path)
    assert studies.read_tables(tmp_path)["scores"]["run"].nunique() == 3
    state["stop"] = None
    for _ in range(2):  # a run without its curve was made again where one is due
        runs.run_study("tiny", [0, 1], tmp_path)
        assert state["runs"] == 1 + 4
    scores, steps, curve = studies.read_study("tiny", tmp_path)
    assert not scores.duplicated(["variant", "seed", "query_id"]).any()
    pairs = scores.groupby(["variant", "seed"]).size()
    assert pairs.nunique() == 1 and set(pairs.index) == {
        ("mean", 0), ("mean", 1), ("untrained, mean", -1),
        ("ata", 0), ("ata", 1), ("untrained, ata", -1),
    }  # fmt: skip
    assert len(steps) == 4 * 4 and len(curve) == 4 * 5
    assert steps[["share_synthetic", "share_retrieved"]].sum(axis=1).between(0, 1).all()
    graded = scores.dropna(subset=["beats_n1", "P"])  # their ladders' cosines are kept
    assert set(graded["variant"]) >= {"mean", "ata"}
    assert graded[["P", "N1", "N2", "N3", "N4"]].abs().le(1.001).all(axis=None)
    assert ((graded["P"] > graded["N1"]) == graded["beats_n1"]).all()


def test_runs_of_other_settings_and_a_folder_in_use_are_refused(tiny, tmp_path):
    other = resolve().flat() | {"temperature": 0.5}
    (tmp_path / "settings.json").write_text(json.dumps(other))
    with pytest.raises(LabError, match=r"temperature=0\.5"):
        runs.run_study("tiny", [0], tmp_path)
    with alone(tmp_path), pytest.raises(LabError, match="another run is writing"):
        runs.run_study("tiny", [0], tmp_path)


def test_scifact_is_trained_on_with_written_and_mined_negatives():
    claims, written = runs.scifact_claims()
    assert len(claims.queries) == len(written) == 400
    query, document = next(iter(claims.queries)), claims.corpus["id"][0]
    mined = pd.DataFrame({"query_id": [query], "document_id": [document]})
    first, second, *others = set_instances(claims, mined, written, runs.CLAIM)
    for one in others:  # what else is labelled is never its negative
        assert len(one.known_positives) == len(claims.positives[one.id]) - 1
    assert any(one.known_positives for one in others)
    assert first.id == query and first.synthetic == tuple(written[query])
    assert first.retrieved == (claims.corpus["text"][0],) and second.retrieved == ()
    assert first.positive != first.synthetic[0] and first.instruction == runs.CLAIM


def test_each_method_mines_its_own_table_without_own_or_held_out_texts():
    records = read_records(resolve())
    settings = resolve(overrides={"teachers": ["bm25"], "candidate_depth": 30})
    found = miner.mine_for_training(records, settings)
    changes = {"mining_method": "abs", "abs_threshold": -2.0}
    drawn = miner.mine_for_training(records, settings.changed(**changes))
    train = {r.id for r in [*records.graded, *records.items] if r.split == "train"}
    for table in (found, drawn):
        assert (table.groupby("query_id").size() == 4).all()
        assert set(table["query_id"]) == train
        assert set(table["document_id"].str.rsplit("/", n=1).str[0]) <= train
        graded = table[table["query_id"].str.contains("/mgh/")]
        own = graded["document_id"].str.rsplit("/", n=1).str[0] == graded["query_id"]
        assert not own.any()
    assert drawn["backfilled"].all() and not found["backfilled"].all()


def scored(values: dict[tuple[str, int], list[float]]) -> pd.DataFrame:
    rows = [
        {"variant": v, "seed": s, "split": "held-out-tasks", "query_id": f"q{i}",
         "ndcg": x}
        for (v, s), numbers in values.items()
        for i, x in enumerate(numbers)
    ]  # fmt: skip
    return pd.DataFrame(rows)


def test_variants_are_compared_over_the_seeds_that_both_have():
    scores = scored(
        {("a", 0): [0.5, 0.5], ("a", 1): [0.7, 0.7], ("a", 2): [9.0, 9.0],
         ("b", 0): [0.4, 0.6], ("b", 1): [0.5, 0.6], ("untrained", -1): [0.1, 0.3]}
    )  # fmt: skip
    table = studies.compare(scores, "b", "held-out-tasks").set_index("variant")
    assert table.loc["a", "difference"] == pytest.approx((0.0 + 0.15) / 2)
    assert table.loc["untrained", "difference"] == pytest.approx(0.2 - 0.525)
    assert table["seeds"].to_dict() == {"a": 2, "untrained": 2}
    assert table.loc["a", "low"] < table.loc["a", "difference"] < table.loc["a", "high"]


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(LabError, match="python -m nbutils study pooling"):
        studies.read_study("pooling", tmp_path)
    with pytest.raises(LabError, match="no scores of 'c'"):
        studies.compare(scored({("a", 0): [1.0]}), "c", "held-out-tasks")
    result = CliRunner().invoke(app, ["study", "poling"])
    assert result.exit_code == 1
    assert "did you mean 'pooling'" in result.output


def test_a_shipped_run_is_made_again_alike(tmp_path):
    study = studies.STUDIES["seeds"]
    settings = resolve(overrides=study.changes("MiniLM"))
    again = runs._run(settings, study, tmp_path, trained=False)["scores"]
    shipped = studies.read_study("seeds")[0].query("variant == 'untrained, MiniLM'")
    both = again.merge(shipped, on=["split", "query_id"], suffixes=("", "_shipped"))
    assert len(both) == len(again) == len(shipped)
    # near-ties swap by rounding from one processor to the next
    means = both.groupby("split")[["ndcg", "ndcg_shipped"]].mean()
    assert means["ndcg"].to_numpy() == pytest.approx(means["ndcg_shipped"], abs=0.005)


def test_ones_own_retrieval_set_is_trained_on_and_scored(own_set):
    arguments = ["mine", str(own_set), "--out", str(own_set / "mined.parquet")]
    arguments += ["--profile", "smoke", "--set", "mining_method=naive"]
    mined = CliRunner().invoke(app, arguments)
    assert mined.exit_code == 0, mined.output
    settings = resolve("smoke", {"mixing": "retrieved", "batch_size": 6})
    own = read_set(own_set, "train")
    data = set_instances(own, read_table(own_set / "mined.parquet"))
    assert all(one.retrieved and one.positive not in one.retrieved for one in data)
    student = build_student(settings)
    steps, _ = loop.train(student, data, settings, progress=False)
    assert len(steps) == 8
    log, out = (steps, steps.head(0)), own_set / "scores.csv"
    folder = loop.save_run(student, own_set / "mine", log, data, settings)
    arguments = ["score", str(own_set), str(folder), "tiny-bert", "--split", "train"]
    arguments += ["--out", str(out), "--profile", "smoke"]
    scored = CliRunner().invoke(app, arguments)
    assert scored.exit_code == 0, scored.output
    assert scored.output.count("by training") == 1  # a peer has no before
    found = read_table(out).set_index(["variant", "query_id"])["ndcg"]
    wanted = {"mine": student, "untrained, mine": build_student(settings)}
    assert {name for name, _ in found.index} == {*wanted, "tiny-bert"}
    for name, model in wanted.items():
        alone = set_scores(model, settings, own).set_index("query_id")["ndcg"]
        assert set(alone.index) == set(own.queries)
        assert found[name].to_dict() == pytest.approx(alone.to_dict()), name
