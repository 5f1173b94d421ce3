"""Sweeps: one short run repeated under several settings and seeds, kept run by run.

A run is known by what it changes in the profile, so runs that two sweeps share are made
once. Here is what the sweeps are, and how what they left is read and compared; they are
made by `studies` (`python -m nbutils study NAME`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from nbutils.core import statistics
from nbutils.core.errors import LabError, nearest
from nbutils.core.files import read_table
from nbutils.core.settings import DATA, ROOT, resolve

SHIPPED = DATA / "results" / "studies"
TABLES = ("scores", "steps", "curve")
UNTRAINED = "untrained"
SHORT = {"steps_per_level": 6, "warmup_steps": 4}
"""Half the page's steps: what many runs can afford on two cores."""


@dataclass(frozen=True)
class Study:
    """Variants (name to changed settings) over one `common` set of changes.

    `curve`: the development set is scored after each level. `mines`: each variant
    mines its own retrieved negatives instead of reading the shipped ones, and random
    documents fill what its method leaves short.
    """

    variants: Mapping[str, Mapping[str, Any]]
    common: Mapping[str, Any] = field(default_factory=lambda: SHORT)
    curve: bool = False
    mines: bool = False

    def changes(self, variant: str) -> dict[str, Any]:
        """What a variant changes in the profile."""
        return {**self.common, **self.variants[variant]}


def _each(setting: str, *values: Any) -> dict[str, dict[str, Any]]:
    return {str(value): {setting: value} for value in values}


STUDIES = {
    "pooling": Study(
        _each("pooling", "mean", "last", "first", "weighted_mean", "ata")
    ),
    "schedule": Study(
        _each(
            "schedule", "curriculum", "reverse", "random", "fixed-1", "fixed-2",
            "fixed-3", "fixed-4",
        ),
        curve=True,
    ),
    "mining": Study(
        {
            "in-batch only": {"retrieved_per_query": 0},
            # no candidate scores below -2, so random documents fill every place
            "random": {"mining_method": "abs", "abs_threshold": -2.0},
            **_each(
                "mining_method", "naive", "shifted", "abs", "margin_pos", "perc_pos"
            ),
        },
        {**SHORT, "mixing": "retrieved", "retrieved_per_query": 2},
        mines=True,
    ),
    # three negatives in every instance, whatever the mixing
    "mixing": Study(
        _each("mixing", "synthetic", "retrieved", "direct", "hybrid"),
        {**SHORT, "retrieved_per_query": 2, "synthetic_ratio": 0.5},
    ),
    "ratio": Study(
        _each("synthetic_ratio", 0.2, 0.5, 0.7, 1.0, 2.0),
        {**SHORT, "retrieved_per_query": 2},
    ),
    "temperature": Study(_each("temperature", 0.01, 0.02, 0.05, 0.1)),
}  # fmt: skip


def study_of(name: str) -> Study:
    """The study of that name; LabError naming the nearest for another."""
    if name not in STUDIES:
        known = ", ".join(STUDIES)
        raise LabError(
            f"unknown study {name!r}{nearest(name, STUDIES)} (known: {known})"
        )
    return STUDIES[name]


def run_key(changes: Mapping[str, Any], seed: int, *, trained: bool, mines: bool):
    """The name of a run: its differences from the default settings, as JSON.

    An untrained student does not depend on what only training reads, so it is named by
    its pooling alone.
    """
    usual = resolve().flat()
    differs = {name: v for name, v in changes.items() if v != usual[name]}
    if not trained:
        differs = {k: v for k, v in differs.items() if k == "pooling"}
        return json.dumps({UNTRAINED: True, **differs}, sort_keys=True)
    own = {"mines": True} if mines else {}
    return json.dumps({**differs, **own, "seed": seed}, sort_keys=True)


def read_tables(folder: Path) -> dict[str, pd.DataFrame]:
    """The tables that a folder of runs has so far, by name; empty where none is."""
    paths = {name: Path(folder, f"{name}.parquet") for name in TABLES}
    blank = pd.DataFrame({"run": pd.Series(dtype="str")})
    return {
        name: read_table(path) if path.is_file() else blank
        for name, path in paths.items()
    }


def read_study(
    name: str, folder: Path = SHIPPED
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """(scores, steps, curve) of a study, with columns variant and seed instead of run.

    scores: split, query_id, ndcg, beats_n1 (nan for retrieval items); the student
    before training is the variant `untrained`, or `untrained, VARIANT` where variants
    differ before it. steps and curve: as `training.TrainingLog` has them. LabError,
    with the command that makes them, where a variant has no run (studies share runs, so
    one may have some before it was made).
    """
    study, tables = study_of(name), read_tables(folder)
    names = _names(study, tables["scores"]["run"].unique())
    made = {v for pairs in names.values() for v, seed in pairs if seed is not None}
    missing = [variant for variant in study.variants if variant not in made]
    if missing:
        raise LabError(
            f"study {name!r} has no run of {', '.join(missing)} in {_shown(folder)}: "
            f"make them with 'python -m nbutils study {name}'"
        )
    return tuple(_labelled(tables[table], names) for table in TABLES)


def _shown(folder: Path) -> str:
    folder = Path(folder)
    return str(folder.relative_to(ROOT) if folder.is_relative_to(ROOT) else folder)


def _names(study: Study, runs: Sequence[str]) -> dict[str, list[tuple[str, Any]]]:
    """Run to the (variant, seed) pairs it stands for; seed None: untrained."""
    found: dict[str, list[tuple[str, Any]]] = {}
    seeds = {json.loads(run).get("seed") for run in runs} - {None}
    before = {
        variant: run_key(study.changes(variant), 0, trained=False, mines=False)
        for variant in study.variants
    }
    alike = len(set(before.values())) == 1
    for variant, key in before.items():
        label = UNTRAINED if alike else f"{UNTRAINED}, {variant}"
        if key in runs and (label, None) not in found.get(key, []):
            found.setdefault(key, []).append((label, None))
        for seed in sorted(seeds):
            key = run_key(study.changes(variant), seed, trained=True, mines=study.mines)
            if key in runs:
                found.setdefault(key, []).append((variant, seed))
    return found


def _labelled(table: pd.DataFrame, names) -> pd.DataFrame:
    parts = [
        table[table["run"] == run].assign(
            variant=variant, seed=-1 if seed is None else seed
        )
        for run, pairs in names.items()
        for variant, seed in pairs
    ]
    return pd.concat(parts, ignore_index=True).drop(columns="run")


def compare(
    scores: pd.DataFrame,
    baseline: str,
    split: str,
    metric: str = "ndcg",
    samples: int = 2000,
) -> pd.DataFrame:
    """Every variant against `baseline`, paired over queries and seeds.

    Returns one row a variant: variant, seeds, mean (of the metric), difference, low,
    high, distinguishable (`statistics.paired_difference`; tasks are the units, seeds
    in common are paired, an untrained student counts for every seed).
    """
    part = scores[scores["split"] == split].dropna(subset=metric)
    table = part.pivot(index=["variant", "seed"], columns="query_id", values=metric)
    units = [statistics.unit_of(query) for query in table.columns]
    if baseline not in table.index.get_level_values("variant"):
        raise LabError(f"the study has no run of {baseline!r} on split {split!r}")
    rows = []
    for variant in table.index.get_level_values("variant").unique():
        ours, theirs = _paired(table.loc[variant], table.loc[baseline])
        row = {
            "variant": variant,
            "seeds": len(table.loc[variant]),
            "mean": float(ours.mean()),
        }
        if variant != baseline:
            found = statistics.paired_difference(
                theirs, ours, units=units, samples=samples
            )
            row |= {"difference": found.pop("mean"), **found}
        rows.append(row)
    return pd.DataFrame(rows)


def _paired(ours: pd.DataFrame, theirs: pd.DataFrame) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the seeds that both have; one untrained row serves for all seeds."""
    if (ours.index < 0).all() or (theirs.index < 0).all():
        count = max(len(ours), len(theirs))
        return tuple(
            np.broadcast_to(t.to_numpy(), (count, t.shape[1])) for t in (ours, theirs)
        )
    both = ours.index.intersection(theirs.index)
    return ours.loc[both].to_numpy(), theirs.loc[both].to_numpy()
