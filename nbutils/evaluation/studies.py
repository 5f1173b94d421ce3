"""Sweeps: one short run repeated under several settings and seeds, kept run by run.

What they are, and how what they left is read and compared; `runs` makes them. A run is
named by what it changes in the defaults, so one that two sweeps share is made once.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from nbutils.core import statistics
from nbutils.core.errors import LabError, known
from nbutils.core.fields import PLACES
from nbutils.core.files import read_json, read_table
from nbutils.core.sections import MINILM
from nbutils.core.settings import DATA, ROOT, resolve

SHIPPED = DATA / "results" / "studies"
CLAIMS = DATA / "results" / "claims.csv"
TABLES = ("scores", "steps", "curve")
SHORT = {"steps_per_level": 6, "warmup_steps": 4}
"""Half the page's steps: what many runs can afford on two cores."""
GRADED = {**SHORT, "mixing": "synthetic"}
"""Negative Matters' own case: one negative a query, from the ladder."""
SMALL = {**SHORT, "student": MINILM}
PUBLIC = {
    **SHORT,
    "student": MINILM, "pooling": "mean", "max_length": 128, "batch_size": 16,
    "mixing": "retrieved", "retrieved_per_query": 1, "synthetic_ratio": 1.0,
}  # fmt: skip
"""On SciFact: two negatives in every instance, whatever the mixing; 24 steps."""


FOUR = [
    "bm25",
    "data/models/student-curriculum-seed0",
    "data/models/student-minilm-seed0",
    MINILM,
]
"""Teachers at hand: words, two students trained on the recordings, MiniLM."""


@dataclass(frozen=True)
class Study:
    """Variants (name to changed settings) over one `common` set of changes.

    `on`: recordings or scifact, which it trains on and is scored on. `graded`: on
    instances with a ladder only. `curve`: the development set is scored after each
    level. `mines`: each variant mines its own negatives, filled up at random, instead
    of reading the shipped ones. `keeps`: trained students are saved, each with its log.
    `cosines`: those of held-out ladders to their query stand in scores as P, N1 … N4.
    """

    variants: Mapping[str, Mapping[str, Any]]
    common: Mapping[str, Any] = field(default_factory=lambda: SMALL)
    on: Literal["recordings", "scifact"] = "recordings"
    graded: bool = False
    curve: bool = False
    mines: bool = False
    keeps: bool = False
    cosines: bool = False

    def changes(
        self, variant: str, overrides: Mapping[str, Any] | None = None
    ) -> dict[str, Any]:
        """What a variant changes in the profile; it wins over `overrides`."""
        return {**self.common, **(overrides or {}), **self.variants[variant]}

    def key(self, variant: str, seed: int | None) -> str:
        """The name of a run: its differences from the default settings, as JSON.

        Seed None: the student before training, which only the encoder's settings make.
        """
        usual = resolve().flat()
        differs = {k: v for k, v in self.changes(variant).items() if v != usual[k]}
        own = {} if self.on == "recordings" else {"on": self.on}
        if seed is None:
            differs = {k: v for k, v in differs.items() if PLACES[k][0] == "encoder"}
            return json.dumps({"untrained": True, **differs, **own}, sort_keys=True)
        own |= {name: True for name in ("graded", "mines") if getattr(self, name)}
        return json.dumps({**differs, **own, "seed": seed}, sort_keys=True)


def _each(setting: str, *values: Any) -> dict[str, dict[str, Any]]:
    return {str(value): {setting: value} for value in values}


SCHEDULES = (
    "curriculum", "reverse", "random", "all", "fixed-1", "fixed-2", "fixed-3",
    "fixed-4",
)  # fmt: skip
STUDIES = {
    # the page's own run, by the settings; and those of two students that are shipped
    "train": Study({"trained": {}}, {}, curve=True, keeps=True),
    "seeds": Study({"SmolLM2": {}, "MiniLM": {"student": MINILM}}, {}),
    # the language model on retrieved negatives alone: how it sees the ladders
    "retrieved": Study({"SmolLM2": {"mixing": "retrieved"}}, {}, cosines=True),
    # one change at a time, half the page's steps, told by the development set
    "recipe": Study(
        {
            "as it is": {},
            "learning_rate=5e-4": {"learning_rate": 5e-4},
            "lora_r=4": {"lora_r": 4, "lora_alpha": 8},
            "temperature=0.02": {"temperature": 0.02},
            "temperature=0.1": {"temperature": 0.1},
        },
        SHORT,
        curve=True,
    ),
    # the language model, on the ladder's negatives alone
    "schedule": Study(_each("schedule", *SCHEDULES), GRADED, graded=True),
    "pooling": Study(_each("pooling", "ata", "mean", "last"), GRADED, graded=True),
    "anchors": Study(
        {
            **_each("pooling", "ata", "first", "weighted_mean"),
            "ata, every token": {"pooled_tokens": "all"},
            "mean, every token": {"pooling": "mean", "pooled_tokens": "all"},
            "ata, causal": {"bidirectional": False},
            "mean, causal": {"pooling": "mean", "bidirectional": False},
            "last, causal": {"pooling": "last", "bidirectional": False},
        },
        GRADED,
        graded=True,
    ),
    "bits": Study(_each("quantization", "nf4", "none"), GRADED, graded=True),
    # MiniLM on a public benchmark
    "scifact": Study(
        {
            "in-batch only": {"retrieved_per_query": 0, "synthetic_ratio": 0.0},
            "naive": {"mining_method": "naive"},
            "perc_pos": {},
            "perc_pos, no in-batch": {"in_batch": False},
            "synthetic": {"mixing": "synthetic"},
            "direct": {"mixing": "direct"},
            "hybrid": {"mixing": "hybrid"},
        },
        PUBLIC,
        on="scifact",
        mines=True,
    ),
    "causalneg": Study(
        {"hybrid": {}, "hybrid, CausalNeg": {"causalneg": 0.05}},
        {**PUBLIC, "mixing": "hybrid"},
        on="scifact",
        mines=True,
    ),
    "teachers": Study(
        {
            "MiniLM": {},
            "BM25": {"teachers": ["bm25"]},
            "random": {"teachers": ["random"], "mining_method": "naive"},
        },
        PUBLIC,
        on="scifact",
        mines=True,
    ),
    # four at hand, the best last; two of them are small students of our own
    "ensembles": Study(
        {
            "best teacher": {},
            **_each("ensemble", "cross_sample", "intra_sample", "intra_sample_dedup"),
        },
        {**PUBLIC, "retrieved_per_query": 3, "teachers": FOUR},
        on="scifact",
        mines=True,
    ),
    "sampling": Study(
        {
            "top 2": {},
            **{
                f"2 of the top {count}": {"selection": "sampled", "sample_from": count}
                for count in (10, 30, 50, 100)
            },
        },
        {**PUBLIC, "negatives_per_query": 2},
        on="scifact",
        mines=True,
    ),
    # MiniLM on the recordings
    "mining": Study(
        {
            "in-batch only": {"retrieved_per_query": 0},
            # no candidate scores below -2, so random documents fill every place
            "random": {"mining_method": "abs", "abs_threshold": -2.0},
            **_each(
                "mining_method", "naive", "shifted", "abs", "margin_pos", "perc_pos"
            ),
        },
        {**SMALL, "mixing": "retrieved", "retrieved_per_query": 2},
        mines=True,
    ),
    # three negatives in every instance, whatever the mixing
    "mixing": Study(
        _each("mixing", "synthetic", "retrieved", "direct", "hybrid"),
        {**SMALL, "retrieved_per_query": 2, "synthetic_ratio": 0.5},
    ),
    "ratio": Study(
        _each("synthetic_ratio", 0.2, 0.5, 0.7, 1.0, 2.0),
        {**SMALL, "retrieved_per_query": 2},
    ),
    "temperature": Study(_each("temperature", 0.01, 0.02, 0.05, 0.1)),
}


def study_of(name: str) -> Study:
    """The study of that name; LabError naming the nearest for another."""
    known("study", name, STUDIES)
    return STUDIES[name]


def settings_of(folder: Path = SHIPPED) -> dict[str, Any]:
    """The settings (flat) that a folder's runs change; {} where there is none yet."""
    path = Path(folder, "settings.json")
    return read_json(path) if path.is_file() else {}


def read_claims(path: Path = CLAIMS) -> pd.DataFrame:
    """Claims, comparisons and verdicts, as `python -m nbutils claims` writes them."""
    return read_table(path).astype({"seeds": "Int64"})  # none where nothing was run


def read_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """The tables that a folder of runs has so far, by name; empty where none is."""
    tables = dict.fromkeys(TABLES, pd.DataFrame({"run": pd.Series(dtype="str")}))
    for path in Path(folder).glob("*.parquet"):
        tables[path.stem] = read_table(path)
    return tables


def read_study(
    name: str, folder: Path = SHIPPED
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """(scores, steps, curve) of a study, with columns variant and seed instead of run.

    scores: split, query_id, ndcg, beats_n1 (nan for retrieval items); the student
    before training has seed -1 and is the variant `untrained`, or `untrained, VARIANT`
    where variants differ before it. steps and curve: as `training.train` returns them.
    LabError, with the command that makes them, where a variant has no run.
    """
    study, tables = study_of(name), read_tables(folder)
    runs = set(tables["scores"]["run"])
    seeds = sorted({json.loads(run).get("seed", -1) for run in runs} - {-1})
    before = {variant: study.key(variant, None) for variant in study.variants}
    alike = len(set(before.values())) == 1
    named = {v: "untrained" if alike else f"untrained, {v}" for v in study.variants}
    rows = [(named[variant], -1, key) for variant, key in before.items()]
    rows += [(v, seed, study.key(v, seed)) for v in study.variants for seed in seeds]
    names = pd.DataFrame(rows, columns=["variant", "seed", "run"]).drop_duplicates()
    made = set(names.loc[names["run"].isin(runs), "variant"])
    missing = [variant for variant in study.variants if variant not in made]
    if missing:
        shown = folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder
        raise LabError(
            f"study {name!r} has no run of {', '.join(missing)} in {shown}: "
            f"make them with 'python -m nbutils study {name} --out {shown}'"
        )
    return tuple(
        names.merge(tables[table], on="run").drop(columns="run") for table in TABLES
    )


def compare(
    scores: pd.DataFrame, baseline: str, split: str, metric: str = "ndcg"
) -> pd.DataFrame:
    """Every variant against `baseline`, paired over queries and the seeds in common.

    Returns one row a variant: variant, seeds (in common), mean (of the metric over
    them), difference, low, high, distinguishable (`statistics.paired_difference`, tasks
    are the units).
    """
    part = scores[scores["split"] == split].dropna(subset=metric)
    table = part.pivot(index=["variant", "seed"], columns="query_id", values=metric)
    units = [statistics.unit_of(query) for query in table.columns]
    variants = table.index.get_level_values("variant").unique()
    if baseline not in variants:
        raise LabError(f"there are no scores of {baseline!r} on split {split!r}")
    rows = []
    for variant in variants:
        ours, theirs = _paired(table.loc[variant], table.loc[baseline])
        row = {"variant": variant, "seeds": len(ours), "mean": ours.mean()}
        if variant != baseline:
            found = statistics.paired_difference(theirs, ours, units=units)
            row |= {"difference": found.pop("mean"), **found}
        rows.append(row)
    return pd.DataFrame(rows)


def difference(
    scores: pd.DataFrame, variant: str, base: str, split: str, metric: str = "ndcg"
) -> dict[str, Any]:
    """One variant minus another (`compare`), as `mean`, over `seeds` in common."""
    both = scores[scores["variant"].isin([variant, base])]
    row = compare(both, base, split, metric).set_index("variant").loc[variant]
    return {**row, "mean": row["difference"], "seeds": int(row["seeds"])}


def _paired(ours: pd.DataFrame, theirs: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Scores (seeds, queries) of the seeds that both have.

    An untrained student's seed is -1; it stands beside every other's.
    """
    if -1 in ours.index:
        ours = ours.loc[[-1] * len(theirs)].set_axis(theirs.index)
    elif -1 in theirs.index:
        theirs = theirs.loc[[-1] * len(ours)].set_axis(ours.index)
    both = ours.index.intersection(theirs.index)
    return ours.loc[both].to_numpy(), theirs.loc[both].to_numpy()
