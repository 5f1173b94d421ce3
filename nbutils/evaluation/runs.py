"""Long runs: several seeds of one training (`python -m nbutils train`) and the
variants of a study (`python -m nbutils study`), each made once and kept.
"""

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd

from nbutils.core import files, processes, statistics
from nbutils.core.errors import LabError
from nbutils.core.machine import check_machine
from nbutils.core.records import RUNGS, read_records
from nbutils.core.retrieval import HELD_OUT, RetrievalSet, read_set
from nbutils.core.settings import DATA, Settings, resolve
from nbutils.encoder.student import build_student, load_encoder, load_student
from nbutils.evaluation import studies
from nbutils.evaluation.scores import development, per_query_scores, set_scores
from nbutils.mining.miner import mine_by_settings, mine_for_training
from nbutils.training import loop
from nbutils.training.instances import MINED, set_instances, training_data

SCIFACT = DATA / "scifact"
CLAIM = "Given a scientific claim, retrieve documents that support or refute the claim"
"""mteb's instruction for SciFact."""


def run_study(
    name: str,
    seeds: Sequence[int],
    folder: Path,
    profile: str = "workshop",
    overrides: Mapping[str, Any] | None = None,
    *,
    say: Callable[[str], None] = print,
    checkpoints: Path | None = None,
) -> None:
    """Make the runs of a study that `folder` does not hold yet, seed after seed.

    Writes scores, steps and curve (parquet, column `run`), students where the study
    keeps them, and the settings that the variants change: LabError if the folder was
    made under others, or while another process makes runs in it. A stopped training
    goes on from `checkpoints`. Several processes make one run together.
    """
    study, count = studies.study_of(name), processes.place()[1]
    base = resolve(profile, overrides)
    check_machine(base)
    with files.alone(folder, processes.is_main()):
        processes.from_main(partial(_own, folder, base.flat()))
        for seed, variant in itertools.product(seeds, study.variants):
            changes = {**study.changes(variant, overrides), "seed": seed}
            settings = resolve(profile, changes)
            for own in (None, seed):
                key = study.key(variant, own)
                due = ["scores", "curve"] if study.curve and own == seed else ["scores"]
                if processes.from_main(partial(_is_made, folder, key, due)):
                    continue
                kept = checkpoints and checkpoints / f"{variant}-seed{seed}"
                made = _run(settings, study, folder, own == seed, kept)
                if processes.is_main():
                    _add(folder, key, made)
                    together = f" ({count} processes)" if count > 1 else ""
                    say(f"{name}, {variant}, seed {seed}{together}: {key}")
                processes.wait()


def _own(folder: Path, ours: dict[str, Any]) -> None:
    """LabError if a folder of runs was made under other settings; else notes them."""
    stored = studies.settings_of(folder)
    if not stored:
        return files.write_json(folder / "settings.json", ours)
    made = resolve(stored["profile"]).flat() | stored  # what came since had its default
    told = [
        f"{name}={value!r} (now {ours[name]!r})"
        for name, value in made.items()
        if ours.get(name, value) != value  # a setting that went had no part in it
    ]
    if told:
        raise LabError(
            f"{folder} holds runs made with {', '.join(told)}: give another --out"
        )


def _is_made(folder: Path, key: str, due: list[str]) -> bool:
    tables = studies.read_tables(folder)
    return all(key in set(tables[table]["run"]) for table in due)


def _add(folder: Path, key: str, made: dict[str, pd.DataFrame]) -> None:
    """Put a run's rows into the folder's tables, in place of older ones."""
    tables = studies.read_tables(folder)
    for table, rows in made.items():
        kept = tables[table][tables[table]["run"] != key]
        both = pd.concat([kept, rows.assign(run=key)], ignore_index=True)
        files.write_table(folder / f"{table}.parquet", both)


def score_models(
    names: Sequence[str], settings: Settings, data: RetrievalSet
) -> pd.DataFrame:
    """One row a model and query of any retrieval set, as `studies.compare` reads them.

    names: folders of trained students, and other encoders by hub name; texts are as
    long as the settings say. A student is scored before training too, with its adapters
    off, as `untrained, NAME`. Columns variant (the last part of the name, the whole
    where two share that), seed (0), split, query_id, ndcg.
    """
    names, parts = list(dict.fromkeys(names)), []
    last = [Path(name).name for name in names]
    for name, title in zip(names, last, strict=True):
        title = title if last.count(title) == 1 else name  # such as seed0, of two runs
        trained = Path(name, "run.json").is_file()
        model = load_student(name) if trained else load_encoder(settings, name)
        if trained:
            model.max_seq_length = settings.encoder.max_length
        parts.append(set_scores(model, settings, data).assign(variant=title))
        if trained:
            model[0].model.disable_adapters()
            before = set_scores(model, settings, data)
            parts.append(before.assign(variant=f"untrained, {title}"))
    return pd.concat(parts, ignore_index=True).assign(seed=0)


def report(name: str, folder: Path) -> list[str]:
    """A line a variant, split and metric: its gain over the untrained student."""
    scores, told = studies.read_study(name, folder)[0], []
    for variant, split in itertools.product(studies.STUDIES[name].variants, HELD_OUT):
        for metric in ("ndcg", "beats_n1"):
            gain = studies.difference(scores, variant, "untrained", split, metric)
            seeds = f"{gain['seeds']} seeds"
            told.append(f"{split}, {metric}, {seeds}: {statistics.in_words(gain)}")
    return told


def _run(
    settings: Settings,
    study: studies.Study,
    folder: Path,
    trained: bool,
    checkpoints: Path | None = None,
) -> dict[str, pd.DataFrame]:
    """A run's tables; scores come last, so that a run that has some is whole."""
    records, student = read_records(settings), build_student(settings)
    made, public = {}, study.data == "scifact"
    if trained:
        mined = _mined(settings, study, folder) if study.mines else MINED
        if public:
            claims, written = scifact_claims()
            data = set_instances(claims, files.read_table(mined), written, CLAIM)
        else:
            data = training_data(records, mined, settings.training.known_positives)
        data = [one for one in data if one.graded or not study.graded]
        score = development(records, settings) if study.curve else None
        log = loop.train(
            student, data, settings, evaluate=score, progress=study.keeps,
            checkpoint_folder=checkpoints,
        )  # fmt: skip
        if study.keeps and processes.is_main():
            kept = folder / "students" / f"seed{settings.seed}"
            loop.save_run(student, kept, log, data, settings)
        made = {"steps": log[0]} | ({"curve": log[1]} if study.curve else {})
    if public:
        scores = set_scores(student, settings, read_set(SCIFACT, "test"))
    else:
        scores = per_query_scores(student, settings, records)
        scores = scores if study.cosines else scores.drop(columns=[*RUNGS])
    return {**made, "scores": scores}


def scifact_claims() -> tuple[RetrievalSet, dict[str, list[str]]]:
    """The training claims that have a written negative, and these."""
    files.verify(SCIFACT)
    written = {
        row["id"].rsplit("/", 1)[1]: row["response"]["hard_negatives"]
        for row in files.read_jsonl(SCIFACT / "syneg.jsonl")
    }
    data = read_set(SCIFACT, "train")
    queries = {name: text for name, text in data.queries.items() if name in written}
    return replace(data, queries=queries), written


def _mined(settings: Settings, study: studies.Study, folder: Path) -> Path:
    """The file of negatives that the settings' method mines for training queries.

    With seed 0, whichever seed comes first: all runs of a variant have one table.
    """
    settings = settings.changed(seed=0)
    chosen = settings.mining.model_dump_json().encode()
    path = folder / "mined" / f"{study.data}-{sha256(chosen).hexdigest()[:12]}.parquet"
    if not path.is_file():
        if study.data == "scifact":
            wide = settings.changed(max_length=256, backfill="random")
            table = mine_by_settings(scifact_claims()[0], wide)
        else:
            table = mine_for_training(read_records(settings), settings)
        files.write_table(path, table)
    return path
