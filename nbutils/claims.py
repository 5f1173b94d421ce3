"""The papers' claims, what was compared here for each, and a verdict by one rule.

The rule was written before the runs of claims 1 to 4, 7, 8 and 11 to 13 were read,
except that a comparison of students needs three seeds: added when some had fewer.
It stood before every run of claim 5, and of ATA over every token or causal (3).
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

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cache
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import norm

from nbutils.core.errors import LabError
from nbutils.core.files import read_jsonl, write_table
from nbutils.core.records import LEVELS, read_records
from nbutils.core.retrieval import HELD_OUT
from nbutils.core.settings import DATA, resolve
from nbutils.core.statistics import interval, paired_difference, unit_of
from nbutils.encoder.student import load_encoder
from nbutils.encoder.vectors import embed
from nbutils.evaluation import studies
from nbutils.evaluation.runs import SCIFACT, scifact_claims
from nbutils.mining import miner
from nbutils.synthesis import ladder

LITTLE = 0.02
"""What "little" and "no worse" mean, in NDCG@10."""
SEEDS = 3
"""Fewer seeds of a run are no comparison: their spread is unknown."""
Row = dict[str, Any]
COLUMNS = ("mean", "low", "high")


def judged(rows: list[Row]) -> pd.DataFrame:
    """The rows of one claim with `holm` (p), `outcome` and the claim's `verdict`."""
    table = pd.DataFrame(rows)
    half = (table["high"] - table["low"]) / 2 / norm.ppf(0.975)
    p = 2 * norm.sf(np.abs(table["value"]) / half)
    order = np.argsort(p)
    steps = p[order] * np.arange(len(p), 0, -1)
    table["holm"] = np.minimum(1, np.maximum.accumulate(steps))[np.argsort(order)]
    sure = table["holm"] < 0.05
    above = table["expects"] == "above"
    little = table["expects"] == "little"
    holds = np.where(
        above,
        sure & (table["value"] > 0),
        (table["low"] > -LITTLE) & (~little | (table["high"] < LITTLE)),
    )
    fails = np.where(
        above,
        sure & (table["value"] < 0),
        (table["high"] < -LITTLE) | (little & (table["low"] > LITTLE)),
    )
    table["outcome"] = np.select([holds, fails], ["holds", "fails"], "open")
    verdict = "not distinguishable here"
    if fails.any():
        verdict = "contradicted"
    elif holds.mean() > 0.5:
        verdict = "reproduced"
    return table.assign(verdict=verdict)


@cache
def _scores(study: str) -> pd.DataFrame:
    return studies.read_study(study)[0]


def compared(
    study: str,
    pairs: Iterable[tuple[str, str]],
    split: str = HELD_OUT[0],
    expects: str = "above",
) -> list[Row]:
    """NDCG@10 of each pair's first variant minus its second, paired."""
    rows = []
    for one, other in pairs:
        found = studies.difference(_scores(study), one, other, split)
        if (seeds := found["seeds"]) >= SEEDS:
            bounds, text = map(found.get, COLUMNS), f"{one} − {other}, {split}"
            row = _row(text, *bounds, "NDCG@10", seeds)
            rows.append({**row, "expects": expects})
    return rows


def _row(comparison: str, value, low, high, unit: str, seeds: int = 0) -> Row:
    row = {"comparison": comparison, "value": value, "low": low, "high": high}
    return {**row, "seeds": seeds, "unit": unit, "expects": "above"}


def levels_fall() -> list[Row]:
    """Cosine to the query under MiniLM as published, each level minus the next."""
    settings = resolve()
    graded = read_records(settings).graded
    vectors = embed(load_encoder(settings), ladder.texts_of(graded), settings)
    ids = pd.Index([example.id for example in graded])
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
        rows.append(_row(text, *map(fall.get, COLUMNS), "cosine", seeds))
    return rows


def fewer_false_negatives() -> list[Row]:
    """Naive minus PercPos: planted answers (recordings), a judge's word (SciFact)."""
    settings = resolve()
    records = read_records(settings)
    planted = miner.training_set(records).planted
    shares = {}
    for method in ("naive", "perc_pos"):
        mined = miner.mine_for_training(records, settings.changed(mining_method=method))
        mined = mined[mined["query_id"].isin(planted)]
        flags = [d in planted[q] for q, d in mined[["query_id", "document_id"]].values]
        shares[method] = pd.Series(flags).groupby(mined["query_id"].values).mean()
    fewer = (shares["naive"] - shares["perc_pos"]).dropna()
    rows = [_row("naive − PercPos, planted answers", *interval(fewer), "share")]
    table = pd.DataFrame(read_jsonl(SCIFACT / "verdicts.jsonl"))
    table = table[table["kind"] == "mined"]
    table["answers"] = [float(response["answers"]) for response in table["response"]]
    means = [
        table[[name in own for own in table["methods"]]].groupby("query_id")["answers"]
        .mean() for name in ("naive", "perc_pos")
    ]  # fmt: skip
    fewer = interval((means[0] - means[1]).dropna())
    return [*rows, _row("naive − PercPos, a judge on SciFact", *fewer, "share")]


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
            rows.append(_row(text, *map(fall.get, COLUMNS), unit, len(both)))
    return rows


def _leak(genuine: dict[str, list[str]], negatives: dict[str, list[str]]) -> tuple:
    """AUC (with interval) of a classifier that never sees the query."""
    flat = [
        [(item, text) for item, texts in own.items() for text in texts]
        for own in (genuine, negatives)
    ]
    (items, texts), (own_items, own_texts) = (zip(*part, strict=True) for part in flat)
    return ladder.text_only_auc(texts, own_texts, items, own_items)


def blocks_hide_the_writer() -> list[Row]:
    """Text-only AUC of each reduced prompt minus the full one's, on the same items.

    Intervals are put together as if independent, though the items are the same: too
    wide rather than too narrow.
    """
    records, made = read_records(resolve()), {}
    for form in ("no_reflection", "no_attributes", "plain"):
        path = DATA / "recordings" / "ablation" / f"syneg_{form}.jsonl"
        made[form] = {
            row["id"].replace(f"syneg-{form.replace('_', '-')}", "seed"): row[
                "response"
            ]["hard_negatives"]
            for row in read_jsonl(path)
        }
    items = {
        i.id: list(i.positives[:2]) for i in records.items if i.id in made["plain"]
    }
    full = {
        s.item_id: list(s.negatives)
        for s in records.syneg
        if s.item_id in items and s.attribute == "matched"
    }
    base = _leak(items, full)
    rows = []
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
    real = {query: [texts[data.positives[query][0]]] for query in written}
    auc = [value - 0.5 for value in _leak(real, written)]
    return [_row("over 0.5, SciFact", *auc, "text-only AUC")]


COMPARE: dict[str, list[Callable[[], list[Row]]]] = {
    "1": [levels_fall, levels_fall_trained],
    "2": [lambda: compared("schedule", [
        ("curriculum", other) for other in
        ("fixed-3", "fixed-2", "fixed-4", "fixed-1", "random", "reverse")
    ])],
    "3": [lambda: compared(
        "pooling", [("ata", "mean"), ("mean", "last"), ("ata", "last")]
    ), lambda: compared("anchors", [
        ("ata, every token", "mean, every token"), ("ata, causal", "mean, causal"),
        ("mean, causal", "last, causal"),
    ])],
    "4": [lambda: compared(
        "teachers", [("MiniLM", "BM25"), ("MiniLM", "random"), ("random", "BM25")],
        "scifact",
    )],
    "5": [lambda: compared("ensembles", [
        ("intra_sample", "best teacher"), ("intra_sample", "intra_sample_dedup"),
        ("best teacher", "cross_sample"),
    ], "scifact")],
    "6a": [fewer_false_negatives],
    "6b": [lambda: compared("mining", [
        ("perc_pos", "naive"), ("margin_pos", "naive"), ("abs", "naive"),
        ("shifted", "naive"), ("perc_pos", "abs"), ("perc_pos", "shifted"),
    ]), lambda: compared("scifact", [("perc_pos", "naive")], "scifact")],
    "7": [lambda: compared(
        "sampling", [("2 of the top 10", "top 2")], "scifact", "no worse"
    ), lambda: compared("sampling", [
        ("2 of the top 10", f"2 of the top {count}") for count in (30, 50, 100)
    ], "scifact")],
    "8": [lambda: compared("scifact", [
        ("hybrid", "direct"), ("hybrid", "synthetic"), ("hybrid", "untrained"),
    ], "scifact"), lambda: compared("mixing", [("hybrid", "direct")]), steadier],
    "9": [lambda: compared(
        "ratio", [("0.7", other) for other in ("0.2", "0.5", "1.0", "2.0")]
    ), lambda: compared("temperature", [("0.02", "0.05"), ("0.02", "0.1")])],
    "10": [blocks_hide_the_writer],
    "11": [lambda: compared(
        "scifact", [("perc_pos", "hybrid"), ("perc_pos", "synthetic")], "scifact"
    ), source_shows, lambda: compared(
        "causalneg", [("hybrid, CausalNeg", "hybrid")], "scifact"
    )],
    "12": [lambda: compared(
        "scifact", [("perc_pos", "perc_pos, no in-batch")], "scifact", "little"
    )],
    "13": [lambda: compared("bits", [("nf4", "none")], expects="no worse")],
}  # fmt: skip
"""By the claim's number: what gives its rows of comparison, value, low, high, seeds,
unit and what the paper expects of the value."""


def rows_of(number: str) -> tuple[list[Row], str]:
    """A claim's comparisons, and what those lack that cannot be made."""
    rows, lacking = [], f"{SEEDS} seeds of each run"
    for compare in COMPARE[number]:
        try:
            rows += compare()
        except LabError as error:
            lacking = str(error)
    return rows, lacking


def make(say: Callable[[str], None] = print) -> pd.DataFrame:
    """Every claim's comparisons from the shipped runs; writes data/results/claims.csv.

    A claim without any keeps one row, which says what is lacking.
    """
    parts = []
    claims = pd.read_csv(DATA / "published" / "claims.csv", dtype=str)
    for claim in claims.fillna("").to_dict("records"):
        needed = claim.pop("lacking")
        rows, lacking = ([], needed) if needed else rows_of(claim["number"])
        none = {"comparison": f"lacking: {lacking}", "verdict": "cannot be shown here"}
        table = judged(rows) if rows else pd.DataFrame([none])
        parts.append(pd.DataFrame([claim] * len(table)).join(table))
        say(f"{claim['number']:>3} {table['verdict'][0]:<25} {claim['claim']}")
    whole = pd.concat(parts, ignore_index=True).round(4)
    write_table(studies.CLAIMS, whole)
    return whole
