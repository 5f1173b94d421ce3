"""Long runs: what notebook 05 trains once, for several seeds (`python -m nbutils
train`), and the runs of a sweep (`python -m nbutils study`).
"""

from __future__ import annotations

import fcntl
import itertools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd

from nbutils.core import processes, statistics
from nbutils.core.errors import LabError
from nbutils.core.fields import Settings
from nbutils.core.files import (
    read_jsonl,
    read_table,
    verify,
    write_json,
    write_table,
)
from nbutils.core.records import Records, TrainingInstance, read_records
from nbutils.core.retrieval import HELD_OUT, RetrievalSet, read_set
from nbutils.core.settings import DATA, resolve
from nbutils.encoder.student import build_student
from nbutils.evaluation import studies
from nbutils.evaluation.scores import development, per_query_scores, set_scores
from nbutils.mining.miner import mine_for_training, mine_set
from nbutils.mining.teachers import load_teachers
from nbutils.training import loop
from nbutils.training.instances import MINED, set_instances, training_data

SEEDS = DATA / "results" / "held_out_by_seed.csv"
SCIFACT = DATA / "scifact"
CLAIMS = DATA / "results" / "claims.csv"
CLAIM = "Given a scientific claim, retrieve documents that support or refute the claim"
"""mteb's instruction for SciFact."""


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


def read_claims(path: Path = CLAIMS) -> pd.DataFrame:
    """Claims, comparisons and verdicts, as `python -m nbutils claims` writes them."""
    return read_table(path)


def other_settings(settings: Settings, path: Path = SEEDS) -> dict[str, Any]:
    """Names and values of the settings beside a table that are not these.

    They stand in a json file, all but the seed; {} where there is none. A setting that
    the file does not know yet had no part in what it is beside.
    """
    beside, ours = path.with_suffix(".settings.json"), settings.flat()
    stored = json.loads(beside.read_text()) if beside.is_file() else {}
    return {name: value for name, value in stored.items() if ours.get(name) != value}


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
    name: str,
    seeds: Sequence[int],
    folder: Path,
    profile: str = "workshop",
    overrides: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Make the runs of a study that `folder` does not hold yet, seed after seed.

    Writes scores, steps and curve (parquet, column `run`), and the settings that the
    variants change beside them: LabError if the folder was made under others, or while
    another process makes runs in it.
    """
    study = studies.study_of(name)
    base = resolve(profile, overrides)
    with _owned(folder, base.flat()):
        for seed, variant in itertools.product(seeds, study.variants):
            changes = {**study.changes(variant, overrides), "seed": seed}
            settings = resolve(profile, changes)
            for own in (None, seed):
                key, tables = study.key(variant, own), studies.read_tables(folder)
                due = ["scores", "curve"] if study.curve and own == seed else ["scores"]
                if all(key in set(tables[table]["run"]) for table in due):
                    continue
                made = _run(settings, study, folder, trained=own is not None)
                for table, rows in made.items():
                    kept = tables[table][tables[table]["run"] != key]
                    both = pd.concat([kept, rows.assign(run=key)], ignore_index=True)
                    write_table(folder / f"{table}.parquet", both)
                say(f"{name}, {variant}, seed {seed}: {key}")


@contextmanager
def _owned(folder: Path, ours: dict[str, Any]) -> Iterator[None]:
    """A folder of runs with these settings, for one process at a time."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise LabError(
                f"another process makes runs in {folder}: wait for it, or give another "
                "--out"
            ) from None
        path = folder / "settings.json"
        stored = json.loads(path.read_text()) if path.is_file() else ours
        told = [
            f"{name}={value!r} (now {ours.get(name)!r})"
            for name, value in stored.items()
            if ours.get(name) != value
        ]
        if told:
            raise LabError(
                f"{folder} holds runs made with {', '.join(told)}: give another --out"
            )
        if not path.is_file():
            write_json(path, ours)
        yield


def _run(
    settings: Settings, study: studies.Study, folder: Path, trained: bool
) -> dict[str, pd.DataFrame]:
    """A run's tables; scores come last, so that a run that has some is whole."""
    records, student = read_records(settings), build_student(settings)
    made = {}
    if trained:
        mined = _mined(records, settings, study, folder) if study.mines else MINED
        if study.on == "scifact":
            data = _scifact_data(read_table(mined))
        else:
            data = training_data(records, mined, settings.training.known_positives)
        data = [one for one in data if one.graded or not study.graded]
        score = development(records, settings) if study.curve else None
        steps, curve = loop.train(
            student, data, settings, evaluate=score, progress=False
        )
        made = {"curve": curve, "steps": steps} if study.curve else {"steps": steps}
    if study.on == "scifact":
        return {
            **made,
            "scores": set_scores(student, settings, read_set(SCIFACT, "test")),
        }
    return {**made, "scores": per_query_scores(student, settings, records)}


def _scifact_data(mined: pd.DataFrame) -> list[TrainingInstance]:
    claims, written = _scifact_claims()
    return set_instances(claims, mined, written, CLAIM)


def _scifact_claims() -> tuple[RetrievalSet, dict[str, list[str]]]:
    """The training claims that have a written negative, and these."""
    verify(SCIFACT)
    written = {
        row["id"].rsplit("/", 1)[1]: row["response"]["hard_negatives"]
        for row in read_jsonl(SCIFACT / "syneg.jsonl")
    }
    data = read_set(SCIFACT, "train")
    queries = {name: text for name, text in data.queries.items() if name in written}
    return replace(data, queries=queries), written


def _mined(
    records: Records, settings: Settings, study: studies.Study, folder: Path
) -> Path:
    """The file of negatives that the settings' method mines for training queries."""
    chosen = settings.mining.model_dump_json().encode()
    path = folder / "mined" / f"{study.on}-{sha256(chosen).hexdigest()[:12]}.parquet"
    if not path.is_file():
        if study.on == "scifact":
            wide = settings.changed(max_length=256, backfill="random")
            teacher = [*load_teachers(wide).values()][-1]
            table = mine_set(_scifact_claims()[0], teacher, wide)
        else:
            table = mine_for_training(records, settings)
        write_table(path, table)
    return path
