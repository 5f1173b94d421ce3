"""Long runs: what one page trains once, trained for several seeds and written down.

Notebook 05 trains one seed; the rows that notebook 06 reads for the others come from
here (`python -m nbutils train`), as do the runs of a sweep (`python -m nbutils study`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from nbutils.core import processes, statistics
from nbutils.core.errors import LabError
from nbutils.core.fields import Settings
from nbutils.core.files import read_table, write_json, write_table
from nbutils.core.records import Records, read_records
from nbutils.core.retrieval import HELD_OUT, local_set
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
    progress: bool = True,
    checkpoint_folder: Path | None = None,
    student_folder: Path | None = None,
) -> pd.DataFrame:
    """Train one seed and score the held-out sets before and after.

    A run that was stopped goes on from the checkpoint in `checkpoint_folder`; the
    trained student, with its log and settings, goes to `student_folder` before it is
    scored (`training.save_run`). Returns one row a query: seed, split, query_id,
    ndcg_before, ndcg_after, beats_n1_before, beats_n1_after.
    """
    processes.place()  # each process takes its own device before anything is loaded
    records = read_records(settings)
    student = build_student(settings)
    sets = [local_set(name, records.graded, records.items) for name in HELD_OUT]
    before = [per_query_scores(student, settings, data) for data in sets]
    data = training_data(records, known=settings.training.known_positives)
    log = loop.train(
        student,
        data,
        settings,
        evaluate=development(records, settings),
        progress=progress,
        checkpoint_folder=checkpoint_folder,
    )
    if student_folder and processes.is_main():
        loop.save_run(student, student_folder, log, data, settings)
    after = [per_query_scores(student, settings, data) for data in sets]
    frames = [
        old.merge(new, on="query_id", suffixes=("_before", "_after")).assign(
            split=data.name, seed=settings.seed
        )
        for old, new, data in zip(before, after, sets, strict=True)
    ]
    return pd.concat(frames, ignore_index=True)


def check_rows(path: Path, settings: Settings) -> None:
    """LabError if the csv file of seeds holds rows of other settings."""
    path = Path(path)
    if not path.is_file():
        return
    wanted = _without_seed(settings)
    beside = path.with_suffix(".settings.json")
    stored = json.loads(beside.read_text()) if beside.is_file() else None
    # a setting that the rows did not know yet has no part in them
    if stored is None or any(wanted.get(k) != v for k, v in stored.items()):
        raise LabError(
            f"{path} holds rows of other settings: give another --out, or remove it"
        )


def _without_seed(settings: Settings) -> dict[str, Any]:
    return {name: v for name, v in settings.flat().items() if name != "seed"}


def add_rows(path: Path, rows: pd.DataFrame, settings: Settings) -> None:
    """Add a seed's rows to a csv file, replacing older rows of the same seed.

    The settings stand beside the file as json. LabError if it holds rows of others.
    """
    path = Path(path)
    check_rows(path, settings)
    if path.is_file():
        kept = read_table(path)
        kept = kept[~kept["seed"].isin(rows["seed"])]
        rows = pd.concat([kept, rows]).sort_values(["seed", "split", "query_id"])
    write_json(path.with_suffix(".settings.json"), _without_seed(settings))
    write_table(path, rows.round(5))


def other_settings(settings: Settings, path: Path = SEEDS) -> list[str]:
    """Names of settings that differ from those a table of seeds was made under."""
    beside = Path(path).with_suffix(".settings.json")
    stored = json.loads(beside.read_text()) if beside.is_file() else {}
    ours = settings.flat()
    return [name for name, value in stored.items() if value != ours[name]]


def report(path: Path) -> list[str]:
    """One line a split and metric: the gain over seeds and queries, with interval."""
    table = read_table(path)
    count = table["seed"].nunique()
    return [
        f"{split}, {metric}, {count} seeds: "
        + statistics.in_words(gains(table, split, metric))
        for split in HELD_OUT
        for metric in ("ndcg", "beats_n1")
    ]


def gains(
    table: pd.DataFrame, split: str, metric: str, samples: int = 2000
) -> dict[str, float]:
    """Gain of `metric` (ndcg, beats_n1) on a split, over seeds and queries.

    Returns what `statistics.paired_difference` does; LabError for an empty split.
    """
    part = table[table["split"] == split].dropna(subset=f"{metric}_after")
    if part.empty:
        raise LabError(f"the table of seeds has no row of split {split!r}")
    before, after = (
        part.pivot(index="seed", columns="query_id", values=f"{metric}_{when}")
        for when in ("before", "after")
    )
    units = [statistics.unit_of(query) for query in before.columns]
    return statistics.paired_difference(
        before.to_numpy(), after.to_numpy(), units=units, samples=samples
    )


# -- sweeps over settings --------------------------------------------------------------


def _add(folder: Path, made: Mapping[str, pd.DataFrame], key: str) -> None:
    """Add a run's rows; its scores come last, so that a run that has some is whole."""
    tables = studies.read_tables(folder)
    for name in reversed(studies.TABLES):
        if name in made:
            rest = tables[name][tables[name]["run"] != key]
            rows = made[name].assign(run=key)
            both = pd.concat([rest, rows], ignore_index=True) if len(rest) else rows
            write_table(folder / f"{name}.parquet", both)


def _has(folder: Path, key: str, *, curve: bool) -> bool:
    """Whether a run is whole in `folder`, with its learning curve where one is due."""
    tables = studies.read_tables(folder)
    wanted = ("scores", "curve") if curve else ("scores",)
    return all(key in set(tables[name]["run"]) for name in wanted)


def run_study(
    name: str,
    seeds: Sequence[int],
    folder: Path,
    say: Callable[[str], None] = print,
) -> None:
    """Make the runs of a study that `folder` does not hold yet.

    Writes scores, steps and curve (parquet, column `run`), and the settings in common
    beside them. Raises LabError if the folder was made under other defaults.
    """
    study = studies.study_of(name)
    _check_defaults(folder)
    records = read_records(resolve())
    for seed in seeds:
        for variant in study.variants:
            for trained in (False, True):
                changes = study.changes(variant)
                key = studies.run_key(changes, seed, trained=trained, mines=study.mines)
                if _has(folder, key, curve=study.curve and trained):
                    continue
                settings = resolve(overrides={**changes, "seed": seed})
                made = _run(records, settings, study, folder, trained)
                _add(folder, made, key)
                say(f"{name}, {variant}, seed {seed}: {key}")


def _check_defaults(folder: Path) -> None:
    """Runs are named by differences, so the defaults must be the same for all."""
    path = folder / "settings.json"
    usual = resolve().flat()
    if not path.is_file():
        return write_json(path, usual)
    stored = json.loads(path.read_text(encoding="utf-8"))
    for name, value in stored.items():
        if usual.get(name) != value:
            raise LabError(
                f"{folder} holds runs made with {name}={value!r}, the default is now "
                f"{usual.get(name)!r}: give another --out"
            )
    return None


def _run(
    records: Records,
    settings: Settings,
    study: studies.Study,
    folder: Path,
    trained: bool,
) -> dict[str, pd.DataFrame]:
    student = build_student(settings)
    made = {}
    if trained:
        mined = _mined(records, settings, folder) if study.mines else MINED
        data = training_data(records, mined, settings.training.known_positives)
        score = development(records, settings) if study.curve else None
        log = loop.train(student, data, settings, evaluate=score, progress=False)
        steps, curve = log.frames()
        made = {"steps": steps, "curve": curve} if study.curve else {"steps": steps}
    sets = [local_set(name, records.graded, records.items) for name in HELD_OUT]
    scores = [
        per_query_scores(student, settings, data).assign(split=data.name)
        for data in sets
    ]
    return {**made, "scores": pd.concat(scores, ignore_index=True)}


def _mined(records: Records, settings: Settings, folder: Path) -> Path:
    """The file of negatives that the settings' method mines for training queries."""
    chosen = settings.mining
    name = f"{chosen.mining_method}-{chosen.abs_threshold:g}.parquet"
    path = folder / "mined" / name
    if not path.is_file():
        write_table(path, mine_for_training(records, settings))
    return path
