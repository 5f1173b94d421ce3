"""Long runs: what notebook 05 trains once, for several seeds (`python -m nbutils
train`), and the runs of a sweep (`python -m nbutils study`).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from nbutils.core import processes, statistics
from nbutils.core.errors import LabError
from nbutils.core.fields import Settings
from nbutils.core.files import read_table, write_json, write_table
from nbutils.core.records import Records, read_records
from nbutils.core.retrieval import HELD_OUT
from nbutils.core.settings import DATA, resolve
from nbutils.encoder.student import build_student
from nbutils.evaluation import studies
from nbutils.evaluation.scores import development, per_query_scores
from nbutils.mining.miner import mine_for_training
from nbutils.training import loop
from nbutils.training.instances import MINED, training_data

SEEDS = DATA / "results" / "held_out_by_seed.csv"


def run_seed(
    settings: Settings,
    checkpoint_folder: Path | None = None,
    student_folder: Path | None = None,
) -> pd.DataFrame:
    """Train one seed and score the held-out sets before and after.

    A stopped run goes on from `checkpoint_folder`; the trained student goes to
    `student_folder` before it is scored (`training.save_run`). Returns one row a query:
    seed, split, query_id, and ndcg and beats_n1, each `_before` and `_after`.
    """
    processes.place()  # each process takes its own device before anything is loaded
    records = read_records(settings)
    student = build_student(settings)
    before = per_query_scores(student, settings, records)
    data = training_data(records, known=settings.training.known_positives)
    score = development(records, settings)
    log = loop.train(
        student, data, settings, evaluate=score, checkpoint_folder=checkpoint_folder
    )
    if student_folder and processes.is_main():
        loop.save_run(student, student_folder, log, data, settings)
    after = per_query_scores(student, settings, records)
    both = before.merge(after, on=["split", "query_id"], suffixes=("_before", "_after"))
    return both.assign(seed=settings.seed)


def other_settings(settings: Settings, path: Path = SEEDS) -> dict[str, Any]:
    """Names and values of the settings beside a table that are not these.

    They stand in a json file, all but the seed; {} where there is none. A setting that
    only one of the two knows had no part in what it is beside.
    """
    beside, ours = path.with_suffix(".settings.json"), settings.flat()
    stored = json.loads(beside.read_text()) if beside.is_file() else {}
    return {n: v for n, v in stored.items() if n in ours and ours[n] != v}


def check_rows(path: Path, settings: Settings) -> None:
    """LabError if the csv file of seeds holds rows of other settings."""
    known = path.with_suffix(".settings.json").is_file()
    if path.is_file() and (not known or other_settings(settings, path)):
        raise LabError(
            f"{path} holds rows of other settings: give another --out, or remove it"
        )


def add_rows(path: Path, rows: pd.DataFrame, settings: Settings) -> None:
    """Add a seed's rows to a csv file, replacing older rows of the same seed."""
    check_rows(path, settings)
    if path.is_file():
        kept = read_table(path)
        kept = kept[~kept["seed"].isin(rows["seed"])]
        rows = pd.concat([kept, rows]).sort_values(["seed", "split", "query_id"])
    alike = {name: value for name, value in settings.flat().items() if name != "seed"}
    write_json(path.with_suffix(".settings.json"), alike)
    write_table(path, rows.round(5))


def report(path: Path) -> list[str]:
    """One line a split and metric: the gain over seeds and queries, with interval."""
    table = read_table(path)
    told = []
    for split, metric in itertools.product(HELD_OUT, ("ndcg", "beats_n1")):
        gain = statistics.in_words(gains(table, split, metric))
        told.append(f"{split}, {metric}, {table['seed'].nunique()} seeds: {gain}")
    return told


def gains(table: pd.DataFrame, split: str, metric: str) -> dict[str, float]:
    """Gain of `metric` (ndcg, beats_n1) on a split, over seeds and queries.

    Returns mean, low, high, distinguishable as `statistics.paired_difference` does;
    LabError for an empty split.
    """
    times = ("before", "after")
    parts = [table.assign(variant=t, score=table[f"{metric}_{t}"]) for t in times]
    compared = studies.compare(pd.concat(parts), "before", split, "score")
    after = compared.set_index("variant").loc["after"]
    return {"mean": after["difference"], **after[["low", "high", "distinguishable"]]}


def run_study(
    name: str, seeds: Sequence[int], folder: Path, say: Callable[[str], None] = print
) -> None:
    """Make the runs of a study that `folder` does not hold yet.

    Writes scores, steps and curve (parquet, column `run`), and the default settings
    beside them: runs are named by their differences from these, so LabError if the
    folder was made under others.
    """
    study, usual = studies.study_of(name), folder / "settings.json"
    ours = resolve().flat()
    stored = json.loads(usual.read_text()) if usual.is_file() else ours
    told = [
        f"{k}={v!r} (now {ours.get(k)!r})"
        for k, v in stored.items()
        if ours.get(k) != v
    ]
    if told:
        raise LabError(
            f"{folder} holds runs made with {', '.join(told)}: give another --out"
        )
    if not usual.is_file():
        write_json(usual, ours)
    records = read_records(resolve())
    for seed, variant in itertools.product(seeds, study.variants):
        settings = resolve(overrides={**study.changes(variant), "seed": seed})
        for own in (None, seed):
            key, tables = study.key(variant, own), studies.read_tables(folder)
            due = ["scores", "curve"] if study.curve and own is not None else ["scores"]
            if all(key in set(tables[table]["run"]) for table in due):
                continue
            made = _run(records, settings, study, folder, trained=own is not None)
            for table, rows in made.items():
                kept = tables[table][tables[table]["run"] != key]
                both = pd.concat([kept, rows.assign(run=key)], ignore_index=True)
                write_table(folder / f"{table}.parquet", both)
            say(f"{name}, {variant}, seed {seed}: {key}")


def _run(
    records: Records, settings: Settings, study: studies.Study, folder: Path, trained
) -> dict[str, pd.DataFrame]:
    """A run's tables; scores come last, so that a run that has some is whole."""
    student = build_student(settings)
    made = {}
    if trained:
        mined = _mined(records, settings, folder) if study.mines else MINED
        data = training_data(records, mined, settings.training.known_positives)
        score = development(records, settings) if study.curve else None
        steps, curve = loop.train(
            student, data, settings, evaluate=score, progress=False
        )
        made = {"curve": curve, "steps": steps} if study.curve else {"steps": steps}
    return {**made, "scores": per_query_scores(student, settings, records)}


def _mined(records: Records, settings: Settings, folder: Path) -> Path:
    """The file of negatives that the settings' method mines for training queries."""
    chosen = settings.mining
    name = f"{chosen.mining_method}-{chosen.abs_threshold:g}.parquet"
    path = folder / "mined" / name
    if not path.is_file():
        write_table(path, mine_for_training(records, settings))
    return path
