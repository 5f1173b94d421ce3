"""Long runs: what one page trains once, trained for several seeds and written down.

Notebook 05 trains one seed; the rows that notebook 06 reads for the others come from
here (`python -m nbutils train`), as do the runs of a sweep (`python -m nbutils study`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd
from sentence_transformers import SentenceTransformer

from nbutils import (
    candidates,
    curriculum,
    distributed,
    encoder,
    evaluation,
    exclusion,
    mining,
    statistics,
    sweeps,
    synthesis,
    teachers,
    training,
)
from nbutils.errors import LabError
from nbutils.records import TrainingInstance, read_table, write_json, write_table
from nbutils.settings import DATA, Settings, resolve

MINED = DATA / "results" / "mined_negatives.parquet"
SEEDS = DATA / "results" / "held_out_by_seed.csv"
HELD_OUT = ("held-out-tasks", "held-out-family")


def training_data(
    records: synthesis.Records, mined: Path = MINED, known: str = "labelled"
) -> list[TrainingInstance]:
    """Training instances with their retrieved negatives from a mined table.

    `known` is the setting `known_positives`.

    The table holds `query_id` and `document_id`; rows of queries or documents that are
    not in these records' training split (fewer families, say) are left out, and said.
    LabError if the table is missing, has other columns, or nothing of it is left.
    """
    table = read_table(mined)
    if not {"query_id", "document_id"} <= set(table.columns):
        raise LabError(f"{mined} is no table of mined negatives: run notebook 03 first")
    corpus = synthesis.corpus(records.items, records.graded, ["train"])
    texts = dict(zip(corpus["id"], corpus["text"], strict=True))
    wanted = {r.id for r in [*records.graded, *records.items] if r.split == "train"}
    table = table[table["query_id"].isin(wanted)]
    kept = table.assign(text=table["document_id"].map(texts)).dropna(subset="text")
    if kept.empty:
        raise LabError(f"{mined} has no row for these records: run notebook 03 first")
    if len(kept) < len(table) and distributed.is_main():
        left = len(table) - len(kept)
        print(f"{left} of {len(table)} mined rows are of other passages: left out")
    table = kept
    return curriculum.instances(
        records.graded, records.items, records.syneg, table, known=known
    )


def development(
    records: synthesis.Records, settings: Settings
) -> Callable[[SentenceTransformer], dict[str, float]]:
    """A function that scores a model on the development examples.

    Returns NDCG@10 over their documents and the share of positives above N1.
    """
    data = evaluation.local_set("dev", records.graded, [])
    tasks = evaluation.local_tasks(data)[:2]

    def score(model: SentenceTransformer) -> dict[str, float]:
        per_query = per_query_scores(model, settings, data, tasks)
        return per_query.drop(columns="query_id").mean().to_dict()

    return score


def per_query_scores(model, settings, data, tasks=None) -> pd.DataFrame:
    """One row a query of a held-out set: query_id, ndcg, beats_n1 (graded only)."""
    tasks = evaluation.local_tasks(data)[:2] if tasks is None else tasks
    cached = evaluation.CachedEncoder(model, settings, "student")
    _, runs = evaluation.evaluate(cached, tasks)
    retrieval, reranking = (runs[task.metadata.name] for task in tasks)
    return pd.DataFrame(
        {
            "ndcg": evaluation.ndcg_per_query(retrieval, data.qrels),
            "beats_n1": evaluation.beats_n1(reranking, data),
        }
    ).rename_axis("query_id").reset_index()  # fmt: skip


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
    distributed.place()  # each process takes its own device before anything is loaded
    records = synthesis.load(settings)
    student = encoder.build_student(settings)
    sets = [
        evaluation.local_set(name, records.graded, records.items) for name in HELD_OUT
    ]
    before = [per_query_scores(student, settings, data) for data in sets]
    data = training_data(records, known=settings.known_positives)
    log = training.train(
        student,
        data,
        settings,
        evaluate=development(records, settings),
        progress=progress,
        checkpoint_folder=checkpoint_folder,
    )
    if student_folder and distributed.is_main():
        training.save_run(student, student_folder, log, data, settings)
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
    wanted = settings.model_dump(exclude={"seed"})
    beside = path.with_suffix(".settings.json")
    stored = json.loads(beside.read_text()) if beside.is_file() else None
    # a setting that the rows did not know yet has no part in them
    if stored is None or any(wanted.get(k) != v for k, v in stored.items()):
        raise LabError(
            f"{path} holds rows of other settings: give another --out, or remove it"
        )


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
    write_json(
        path.with_suffix(".settings.json"), settings.model_dump(exclude={"seed"})
    )
    write_table(path, rows.round(5))


def other_settings(settings: Settings, path: Path = SEEDS) -> list[str]:
    """Names of settings that differ from those a table of seeds was made under."""
    beside = Path(path).with_suffix(".settings.json")
    stored = json.loads(beside.read_text()) if beside.is_file() else {}
    return [name for name, value in stored.items() if value != getattr(settings, name)]


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
    tables = sweeps.read_tables(folder)
    for name in reversed(sweeps.TABLES):
        if name in made:
            rest = tables[name][tables[name]["run"] != key]
            rows = made[name].assign(run=key)
            both = pd.concat([rest, rows], ignore_index=True) if len(rest) else rows
            write_table(folder / f"{name}.parquet", both)


def _has(folder: Path, key: str, *, curve: bool) -> bool:
    """Whether a run is whole in `folder`, with its learning curve where one is due."""
    tables = sweeps.read_tables(folder)
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
    study = sweeps.study_of(name)
    _check_defaults(folder)
    records = synthesis.load(resolve())
    for seed in seeds:
        for variant in study.variants:
            for trained in (False, True):
                changes = study.changes(variant)
                key = sweeps.run_key(changes, seed, trained=trained, mines=study.mines)
                if _has(folder, key, curve=study.curve and trained):
                    continue
                settings = resolve(overrides={**changes, "seed": seed})
                made = _run(records, settings, study, folder, trained)
                _add(folder, made, key)
                say(f"{name}, {variant}, seed {seed}: {key}")


def _check_defaults(folder: Path) -> None:
    """Runs are named by differences, so the defaults must be the same for all."""
    path = folder / "settings.json"
    usual = resolve().model_dump()
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
    records: synthesis.Records,
    settings: Settings,
    study: sweeps.Study,
    folder: Path,
    trained: bool,
) -> dict[str, pd.DataFrame]:
    student = encoder.build_student(settings)
    made = {}
    if trained:
        mined = _mined(records, settings, folder) if study.mines else MINED
        data = training_data(records, mined, settings.known_positives)
        score = development(records, settings) if study.curve else None
        log = training.train(student, data, settings, evaluate=score, progress=False)
        steps, curve = log.frames()
        made = {"steps": steps, "curve": curve} if study.curve else {"steps": steps}
    sets = [
        evaluation.local_set(name, records.graded, records.items) for name in HELD_OUT
    ]
    scores = [
        per_query_scores(student, settings, data).assign(split=data.name)
        for data in sets
    ]
    return {**made, "scores": pd.concat(scores, ignore_index=True)}


def _mined(records: synthesis.Records, settings: Settings, folder: Path) -> Path:
    """The file of negatives that the settings' method mines for training queries."""
    name = f"{settings.mining_method}-{settings.abs_threshold:g}.parquet"
    path = folder / "mined" / name
    if not path.is_file():
        write_table(path, mine_for_training(records, settings))
    return path


def mine_for_training(records: synthesis.Records, settings: Settings) -> pd.DataFrame:
    """Negatives of every training query by the last teacher, as notebook 03 mines them.

    Own graded negatives are excluded; shortfalls are filled with random documents.
    """
    items = [item for item in records.items if item.split == "train"]
    graded = [example for example in records.graded if example.split == "train"]
    corpus = synthesis.corpus(items, graded, ["train"])
    row_of = corpus.explode("ids").set_index("ids")["id"].to_dict()
    queries = {record.id: record.query for record in (*items, *graded)}
    positives = {item.id: [row_of[f"{item.id}/P0"]] for item in items}
    positives |= {example.id: [row_of[f"{example.id}/P"]] for example in graded}
    own = {e.id: [row_of[f"{e.id}/N{n}"] for n in (1, 2, 3, 4)] for e in graded}
    teacher = [*teachers.load_teachers(settings).values()][-1]
    search = candidates.Search(
        teacher, queries, corpus, positives, settings.candidate_depth
    )
    recipe = mining.Recipe.of(settings, backfill="random")

    def once(table):
        pool = exclusion.prepare(table, queries, corpus, exclude=own)
        return mining.mine(pool, recipe)

    return mining.mine_until_full(search.candidates(), once, search.deepen).negatives
