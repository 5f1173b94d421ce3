"""Long runs: what one page trains once, trained for several seeds and written down.

Notebook 05 trains one seed; the rows that notebook 06 reads for the others come from
here (`python -m nbutils train`), as do the runs of a sweep (`python -m nbutils study`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from nbutils.core import processes, statistics
from nbutils.core.errors import LabError
from nbutils.core.fields import Settings
from nbutils.core.files import read_json, read_table, write_json, write_table
from nbutils.core.records import Records
from nbutils.core.retrieval import HELD_OUT
from nbutils.core.settings import DATA, resolve
from nbutils.encoder.student import build_student
from nbutils.evaluation import studies
from nbutils.evaluation.scores import development, held_out_scores
from nbutils.mining.miner import mine_for_training
from nbutils.synthesis import generate
from nbutils.training import loop
from nbutils.training.instances import MINED, training_data

SEEDS = DATA / "results" / "held_out_by_seed.csv"

# -- seeds ---------------------------------------------------------------------------


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
    records = generate.load(settings)
    student = build_student(settings)
    before = held_out_scores(student, settings, records)
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
    after = held_out_scores(student, settings, records)
    both = before.merge(after, on=["split", "query_id"], suffixes=("_before", "_after"))
    return both.assign(seed=settings.seed)


def _beside(path: Path) -> Path:
    """The file of the settings that a table was made under, all but the seed."""
    return Path(path).with_suffix(".settings.json")


def _differing(path: Path, settings: Settings) -> dict[str, Any]:
    """Name and value of the file's settings that are not these; {} without a file."""
    stored = read_json(path) if path.is_file() else {}
    ours = settings.flat()
    # a setting that the file does not know yet has no part in what it is beside
    return {name: v for name, v in stored.items() if ours.get(name) != v}


def other_settings(settings: Settings, path: Path = SEEDS) -> list[str]:
    """Names of settings that differ from those a table of seeds was made under."""
    return list(_differing(_beside(path), settings))


def check_rows(path: Path, settings: Settings) -> None:
    """LabError if the csv file of seeds holds rows of other settings."""
    known = _beside(path).is_file()
    if Path(path).is_file() and (not known or other_settings(settings, path)):
        raise LabError(
            f"{path} holds rows of other settings: give another --out, or remove it"
        )


def add_rows(path: Path, rows: pd.DataFrame, settings: Settings) -> None:
    """Add a seed's rows to a csv file, replacing older rows of the same seed.

    The settings stand beside the file as json. LabError if it holds rows of others.
    """
    check_rows(path, settings)
    if Path(path).is_file():
        kept = read_table(path)
        kept = kept[~kept["seed"].isin(rows["seed"])]
        rows = pd.concat([kept, rows]).sort_values(["seed", "split", "query_id"])
    alike = {name: value for name, value in settings.flat().items() if name != "seed"}
    write_json(_beside(path), alike)
    write_table(path, rows.round(5))


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


def run_study(
    name: str,
    seeds: Sequence[int],
    folder: Path,
    say: Callable[[str], None] = print,
) -> None:
    """Make the runs of a study that `folder` does not hold yet.

    Writes scores, steps and curve (parquet, column `run`), and the settings in common
    beside them. Raises LabError if the folder was made under other defaults: runs are
    named by their differences from these.
    """
    study, usual = studies.study_of(name), folder / "settings.json"
    for setting, value in _differing(usual, resolve()).items():
        raise LabError(
            f"{folder} holds runs made with {setting}={value!r}, the default is now "
            f"{resolve().flat().get(setting)!r}: give another --out"
        )
    if not usual.is_file():
        write_json(usual, resolve().flat())
    records = generate.load(resolve())
    for seed in seeds:
        for variant in study.variants:
            for own in (None, seed):
                key, tables = study.key(variant, own), studies.read_tables(folder)
                due = (
                    ["scores"]
                    if own is None or not study.curve
                    else ["scores", "curve"]
                )
                if all(key in set(tables[table]["run"]) for table in due):
                    continue
                settings = resolve(overrides={**study.changes(variant), "seed": seed})
                made = _run(records, settings, study, folder, trained=own is not None)
                for table, rows in made.items():
                    kept = tables[table][tables[table]["run"] != key]
                    both = pd.concat([kept, rows.assign(run=key)], ignore_index=True)
                    write_table(folder / f"{table}.parquet", both)
                say(f"{name}, {variant}, seed {seed}: {key}")


def _run(
    records: Records,
    settings: Settings,
    study: studies.Study,
    folder: Path,
    trained: bool,
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
    return {**made, "scores": held_out_scores(student, settings, records)}


def _mined(records: Records, settings: Settings, folder: Path) -> Path:
    """The file of negatives that the settings' method mines for training queries."""
    chosen = settings.mining
    name = f"{chosen.mining_method}-{chosen.abs_threshold:g}.parquet"
    path = folder / "mined" / name
    if not path.is_file():
        write_table(path, mine_for_training(records, settings))
    return path
