"""Long runs: what one page trains once, trained for several seeds and written down.

Notebook 05 trains one seed; the rows that notebook 06 reads for the others come from
here (`python -m nbutils train`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
from sentence_transformers import SentenceTransformer

from nbutils import (
    curriculum,
    encoder,
    evaluation,
    statistics,
    synthesis,
    training,
)
from nbutils.errors import LabError
from nbutils.records import TrainingInstance, read_table, write_table
from nbutils.settings import DATA, Settings

MINED = DATA / "results" / "mined_negatives.parquet"
SEEDS = DATA / "results" / "held_out_by_seed.csv"
HELD_OUT = ("held-out-tasks", "held-out-family")


def training_data(
    records: synthesis.Records, mined: Path = MINED
) -> list[TrainingInstance]:
    """Training instances with their retrieved negatives from a mined table.

    The table holds `query_id` and `document_id`; its documents are those of the
    training corpus. LabError if it is missing or names documents that are not there.
    """
    table = read_table(mined)
    corpus = synthesis.corpus(records.items, records.graded, ["train"])
    texts = dict(zip(corpus["id"], corpus["text"], strict=True))
    wanted = {r.id for r in [*records.graded, *records.items] if r.split == "train"}
    table = table[table["query_id"].isin(wanted)]
    table = table.assign(text=table["document_id"].map(texts)).dropna(subset="text")
    return curriculum.instances(records.graded, records.items, records.syneg, table)


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


def run_seed(settings: Settings, progress: bool = True) -> pd.DataFrame:
    """Train one seed and score the held-out sets before and after.

    Returns one row a query: seed, split, query_id, ndcg_before, ndcg_after,
    beats_n1_before, beats_n1_after.
    """
    records = synthesis.load(settings)
    student = encoder.build_student(settings)
    sets = [
        evaluation.local_set(name, records.graded, records.items) for name in HELD_OUT
    ]
    before = [per_query_scores(student, settings, data) for data in sets]
    data = training_data(records)
    training.train(student, data, settings, progress=progress)
    after = [per_query_scores(student, settings, data) for data in sets]
    frames = [
        old.merge(new, on="query_id", suffixes=("_before", "_after")).assign(
            split=data.name, seed=settings.seed
        )
        for old, new, data in zip(before, after, sets, strict=True)
    ]
    return pd.concat(frames, ignore_index=True)


def add_rows(path: Path, rows: pd.DataFrame) -> None:
    """Add a seed's rows to a csv file, replacing older rows of the same seed."""
    path = Path(path)
    if path.is_file():
        kept = read_table(path)
        kept = kept[~kept["seed"].isin(rows["seed"])]
        rows = pd.concat([kept, rows]).sort_values(["seed", "split", "query_id"])
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
    wide = [
        part.pivot(index="seed", columns="query_id", values=f"{metric}_{when}")
        for when in ("before", "after")
    ]
    return statistics.paired_difference(
        wide[0].to_numpy(), wide[1].to_numpy(), samples=samples
    )
