"""Studies: one short run repeated under several settings and seeds, kept run by run.

What they are (studies.yaml), and how what they left is read and compared; `runs` makes
them. A run is named by what it changes in the defaults: studies share what is alike.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import yaml

from nbutils.core.errors import LabError, known
from nbutils.core.files import read_json, read_table
from nbutils.core.settings import DATA, PLACES, ROOT, resolve
from nbutils.core.statistics import paired_difference, unit_of

SHIPPED = DATA / "results" / "studies"
CLAIMS = DATA / "results" / "claims.csv"
TABLES = ("scores", "steps", "curve")


@dataclass(frozen=True)
class Study:
    """Variants (name to changed settings) over one `common` set of changes.

    `data`: recordings or scifact, which it trains on and is scored on. `graded`: on
    instances with a ladder only. `curve`: the development set is scored after each
    level. `mines`: each variant mines its own negatives, filled up at random, instead
    of reading the shipped ones. `keeps`: trained students are saved, each with its log.
    `cosines`: those of held-out ladders to their query stand in scores as P, N1 … N4.
    """

    variants: Mapping[str, Mapping[str, Any]]
    common: Mapping[str, Any] = field(default_factory=dict)
    data: Literal["recordings", "scifact"] = "recordings"
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
        own = {} if self.data == "recordings" else {"on": self.data}
        if seed is None:
            differs = {k: v for k, v in differs.items() if PLACES[k][0] == "encoder"}
            return json.dumps({"untrained": True, **differs, **own}, sort_keys=True)
        own |= {name: True for name in ("graded", "mines") if getattr(self, name)}
        return json.dumps({**differs, **own, "seed": seed}, sort_keys=True)


def _read_studies() -> dict[str, Study]:
    """The studies of studies.yaml; `each` is written out as variants."""
    studies = {}
    text = Path(__file__).with_suffix(".yaml").read_text(encoding="utf-8")
    for name, fields in yaml.safe_load(text).items():
        for setting, values in fields.pop("each", {}).items():
            fields["variants"] = {str(value): {setting: value} for value in values}
        studies[name] = Study(**fields)
    return studies


STUDIES = _read_studies()


def study_of(name: str) -> Study:
    """The study of that name; LabError naming the nearest for another."""
    return STUDIES[known("study", name, STUDIES)]


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


def difference(
    scores: pd.DataFrame, variant: str, base: str, split: str, metric: str = "ndcg"
) -> dict[str, Any]:
    """One variant minus another, paired over queries and the seeds in common.

    Returns seeds (how many) and mean, low, high, distinguishable, as
    `statistics.paired_difference` has them; tasks are the units. An untrained student,
    of seed -1, stands beside every seed of the other. LabError where one has no score.
    """
    part = scores[scores["split"] == split].dropna(subset=metric)
    part = part[part["variant"].isin([variant, base])]
    table = part.pivot(index=["variant", "seed"], columns="query_id", values=metric)
    for name in (variant, base):
        if name not in table.index:
            raise LabError(f"there are no scores of {name!r} on split {split!r}")
    ours, theirs = table.loc[variant], table.loc[base]
    if -1 in ours.index:
        ours = ours.loc[[-1] * len(theirs)].set_axis(theirs.index)
    elif -1 in theirs.index:
        theirs = theirs.loc[[-1] * len(ours)].set_axis(ours.index)
    seeds = ours.index.intersection(theirs.index)
    units = [unit_of(query) for query in table.columns]
    found = paired_difference(theirs.loc[seeds], ours.loc[seeds], units=units)
    return {"seeds": len(seeds), **found}


def compare(
    scores: pd.DataFrame, baseline: str, split: str, metric: str = "ndcg"
) -> pd.DataFrame:
    """Every other variant minus `baseline`: a row of `difference` for each.

    Columns variant, seeds, difference, low, high, distinguishable.
    """
    own = scores[scores["split"] == split].dropna(subset=metric)["variant"]
    rows = [
        {"variant": name, **difference(scores, name, baseline, split, metric)}
        for name in sorted(set(own) - {baseline})
    ]
    return pd.DataFrame(rows).rename(columns={"mean": "difference"})
