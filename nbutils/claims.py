"""The papers' claims, what was compared here for each, and a verdict by one rule.

The rule was written before the runs of claims 1 to 4, 7, 8 and 11 to 13 were read,
except that a comparison of students needs three seeds: added when some had fewer.
It stood before every run of claim 5, and of ATA over every token or causal (3). Seeds
after the third (2, 3, 9 and 13) were added when the first three had been read.
The runs on the recordings behind 6b, 8 and 9 were older and known, as were the texts
behind 1, 6a and 10.

A comparison is a difference with a 95 % interval over units and seeds; p is that of a
normal distribution with the interval's width; Holm corrects it within its claim, at
5 %. A comparison that the paper expects *above* zero holds where it is above after
Holm, and fails where it is below. One expected to be *no worse* holds where the whole
interval is above −0.02, and fails where it is below; one expected to be *little* holds
within ±0.02, and fails outside. A claim is

- contradicted, where a comparison fails;
- reproduced, where more than half hold and none fails;
- cannot be shown here, where nothing could be compared;
- not distinguishable here, otherwise.
"""

from collections.abc import Callable, Mapping
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm

from nbutils.core.errors import LabError
from nbutils.core.files import read_jsonl, write_table
from nbutils.core.records import LEVELS, read_records
from nbutils.core.settings import DATA, resolve
from nbutils.core.statistics import interval, paired_difference, unit_of
from nbutils.encoder.student import load_encoder
from nbutils.encoder.vectors import embed
from nbutils.evaluation import studies
from nbutils.evaluation.runs import SCIFACT, scifact_claims
from nbutils.mining import audit, miner
from nbutils.synthesis import ladder

LITTLE = 0.02
"""What "little" and "no worse" mean, in NDCG@10."""
SEEDS = 3
"""Fewer seeds of a run are no comparison: their spread is unknown."""
Row = dict[str, Any]


def judged(rows: list[Row]) -> pd.DataFrame:
    """The rows of one claim with `holm` (p), `outcome` and the claim's `verdict`."""
    table = pd.DataFrame(rows)
    half = (table["high"] - table["low"]) / 2 / norm.ppf(0.975)
    p = 2 * norm.sf(np.abs(table["value"]) / half)
    order = np.argsort(p)
    steps = p[order] * np.arange(len(p), 0, -1)
    table["holm"] = np.minimum(1, np.maximum.accumulate(steps))[np.argsort(order)]
    table["outcome"] = [_outcome(row) for row in table.to_dict("records")]
    verdict = "not distinguishable here"
    if (table["outcome"] == "fails").any():
        verdict = "contradicted"
    elif (table["outcome"] == "holds").mean() > 0.5:
        verdict = "reproduced"
    return table.assign(verdict=verdict)


def _outcome(row: Row) -> str:
    sure, low, high = row["holm"] < 0.05, row["low"], row["high"]
    holds, fails = {
        "above": (sure and row["value"] > 0, sure and row["value"] < 0),
        "no worse": (low > -LITTLE, high < -LITTLE),
        "little": (low > -LITTLE and high < LITTLE, high < -LITTLE or low > LITTLE),
    }[row["expects"]]
    return "holds" if holds else "fails" if fails else "open"


def _row(comparison: str, value, low, high, unit: str, seeds: int = 0) -> Row:
    row = {"comparison": comparison, "value": value, "low": low, "high": high}
    return {**row, "seeds": seeds, "unit": unit, "expects": "above"}


def _bounds(found: Mapping[str, float]) -> tuple[float, float, float]:
    return found["mean"], found["low"], found["high"]


@cache
def _scores(study: str) -> pd.DataFrame:
    return studies.read_study(study)[0]


def compared(study: str, one: str, other: str, split: str, expects: str) -> list[Row]:
    """NDCG@10 of one variant minus another's, paired; no row where seeds are few."""
    found = studies.difference(_scores(study), one, other, split)
    text, seeds = f"{one} − {other}, {split}", found["seeds"]
    row = _row(text, *_bounds(found), "NDCG@10", seeds)
    return [{**row, "expects": expects}] if seeds >= SEEDS else []


def levels_fall() -> list[Row]:
    """Cosine to the query under MiniLM as published, each level minus the next."""
    settings = resolve()
    graded = read_records(settings).graded
    vectors = embed(load_encoder(settings), ladder.texts_of(graded), settings)
    ids = [example.id for example in graded]
    table = pd.DataFrame(ladder.cosines(vectors), ids, ladder.RUNGS)
    return _falls([table], "MiniLM", 0)


def levels_fall_trained() -> list[Row]:
    """The same of held-out ladders, under students trained on retrieved negatives."""
    runs = _scores("retrieved").query("seed >= 0").dropna(subset="P")
    tables = [run.set_index("query_id") for _, run in runs.groupby("seed")]
    return _falls(tables, "SmolLM2 trained on retrieved negatives", len(tables))


def _falls(tables: list[pd.DataFrame], under: str, seeds: int) -> list[Row]:
    """Tables of cosines, one a seed: a row a ladder, in columns N1 to N4."""
    units, rows = [unit_of(query) for query in tables[0].index], []
    for upper, lower in pairwise(LEVELS):
        high, low = ([table[name] for table in tables] for name in (upper, lower))
        fall = paired_difference(low, high, units=units)
        text = f"{upper} − {lower}, cosine to the query under {under}"
        rows.append(_row(text, *_bounds(fall), "cosine", seeds))
    return rows


def fewer_planted() -> list[Row]:
    """The share of planted answers among mined negatives: naive minus PercPos."""
    settings, shares = resolve(), {}
    records = read_records(settings)
    planted = miner.training_set(records).planted
    for method in ("naive", "perc_pos"):
        mined = miner.mine_for_training(records, settings.changed(mining_method=method))
        counts = audit.false_negatives(mined, planted)
        shares[method] = counts["planted"] / counts["negatives"]
    return _fewer(shares, "planted answers")


def fewer_by_a_judge() -> list[Row]:
    """The share of mined negatives on SciFact that answer, by a judge's word."""
    table = pd.json_normalize(read_jsonl(SCIFACT / "verdicts.jsonl"))
    table = table[table["kind"] == "mined"].explode("methods")
    table["answers"] = table["response.answers"].astype(float)
    shares = table.pivot_table("answers", "query_id", "methods", aggfunc="mean")
    return _fewer(shares, "a judge on SciFact")


def _fewer(shares: Mapping[str, pd.Series], source: str) -> list[Row]:
    fewer = (shares["naive"] - shares["perc_pos"]).dropna().sort_index()
    return [_row(f"naive − PercPos, {source}", *interval(fewer), "share")]


def steadier() -> list[Row]:
    """Variance of the gradient norms over a run's steps: direct minus hybrid."""
    rows = []
    for study in ("scifact", "mixing"):
        steps = studies.read_study(study)[1]
        spread = steps.groupby(["seed", "variant"])["gradient_norm"].var().unstack()
        both = spread[["direct", "hybrid"]].dropna()
        if len(both) >= SEEDS:
            fall = paired_difference(both[["hybrid"]], both[["direct"]])
            unit, text = "variance of the gradient norm", f"direct − hybrid, {study}"
            rows.append(_row(text, *_bounds(fall), unit, len(both)))
    return rows


def blocks_hide_the_writer() -> list[Row]:
    """Text-only AUC of each reduced prompt minus the full one's, on the same items.

    Intervals are put together as if independent, though the items are the same: too
    wide rather than too narrow.
    """
    records, made = read_records(resolve()), {}
    for form in ("no_reflection", "no_attributes", "plain"):
        rows = read_jsonl(DATA / "recordings" / "ablation" / f"syneg_{form}.jsonl")
        prefix = f"syneg-{form.replace('_', '-')}"
        made[form] = {
            row["id"].replace(prefix, "seed"): row["response"]["hard_negatives"]
            for row in rows
        }
    items = {i.id: i.positives[:2] for i in records.items if i.id in made["plain"]}
    matched = [s for s in records.syneg if s.attribute == "matched"]
    full = {s.item_id: s.negatives for s in matched if s.item_id in items}
    base, rows = _leak(items, full), []
    for form, negatives in made.items():
        own = _leak(items, negatives)
        value = own[0] - base[0]
        half = np.hypot(own[2] - own[1], base[2] - base[1]) / 2
        text = f"{form.replace('_', ' ')} − full prompt"
        rows.append(_row(text, value, value - half, value + half, "text-only AUC"))
    return rows


def source_shows() -> list[Row]:
    """AUC over one half on SciFact: real abstracts against written ones."""
    data, written = scifact_claims()
    texts = data.corpus.set_index("id")["text"]
    real = {query: texts[data.positives[query][0]] for query in written}
    auc = [value - 0.5 for value in _leak(real, written)]
    return [_row("over 0.5, SciFact", *auc, "text-only AUC")]


def _leak(genuine: Mapping[str, Any], negatives: Mapping[str, Any]) -> tuple:
    """AUC, low, high of a classifier that never sees the query; texts by item."""
    rows = (pd.Series(texts).explode() for texts in (genuine, negatives))
    return ladder.text_only_auc(*(zip(own, own.index, strict=True) for own in rows))


COMPUTED: dict[str, Callable[[], list[Row]]] = {
    made.__name__: made
    for made in (
        levels_fall, levels_fall_trained, fewer_planted, fewer_by_a_judge, steadier,
        blocks_hide_the_writer, source_shows,
    )
}  # fmt: skip
"""Comparisons that are not of a study's scores, by their name in comparisons.csv."""


def _published(name: str) -> list[dict[str, str]]:
    table = pd.read_csv(DATA / "published" / f"{name}.csv", dtype=str)
    return table.fillna("").to_dict("records")


def rows_of(number: str) -> tuple[list[Row], str]:
    """A claim's comparisons, and what those lack that cannot be made."""
    rows, lacking = [], f"{SEEDS} seeds of each run"
    for line in _published("comparisons"):
        if line.pop("number") == number:
            computed = COMPUTED.get(line["study"])
            try:
                rows += computed() if computed else compared(**line)
            except LabError as error:
                lacking = str(error)
    return rows, lacking


def make(path: Path, say: Callable[[str], None] = print) -> pd.DataFrame:
    """Every claim's comparisons from the shipped runs, written to the csv `path`.

    A claim without any keeps one row, which says what is lacking.
    """
    parts = []
    for claim in _published("claims"):
        rows, lacking = rows_of(claim["number"])
        none = {"comparison": f"lacking: {lacking}", "verdict": "cannot be shown here"}
        table = judged(rows) if rows else pd.DataFrame([none])
        parts.append(pd.DataFrame([claim] * len(table)).join(table))
        say(f"{claim['number']:>3} {table['verdict'][0]:<25} {claim['claim']}")
    whole = pd.concat(parts, ignore_index=True).round(4)
    write_table(path, whole)
    return whole
