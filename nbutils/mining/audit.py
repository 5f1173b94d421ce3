"""What was mined, checked: the faults that other miners ship, and the known truth.

A false negative is a mined document that answers the query. Where unlabelled positives
were planted, their share is counted exactly; NV-Retriever has to estimate it with a
language model as judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache

import numpy as np
import pandas as pd

from nbutils.core.errors import LabError
from nbutils.core.text import normalise

LIMITS = {
    "own positive": 0.0,
    "equal to own positive": 0.0,
    "equal to query": 0.0,
    "duplicate": 0.0,
    "at or above ceiling": 0.0,
    "shortfall": 0.0,
}
"""Largest share that passes with `fail`; the other checks only inform."""


def check_mined(
    negatives: pd.DataFrame,
    queries: Mapping[str, str],
    texts: Mapping[str, str],
    positives: Mapping[str, Sequence[str]],
    *,
    wanted: int,
    planted: Mapping[str, Sequence[str]] | None = None,
    limits: Mapping[str, float] | None = None,
    fail: bool = False,
) -> pd.DataFrame:
    """Check mined negatives (columns of `mining.Mined.negatives`).

    queries, texts: id to text. positives, planted: query id to document ids. wanted:
    negatives a query should have. Returns one row a check: check, count, of, share,
    limit (missing: informs only), passed, example. With `fail`, LabError names every
    check above its limit; `limits` changes or adds limits (`LIMITS`, by check).
    """
    limits = {**LIMITS, **(limits or {})}
    rows = _row_checks(negatives, queries, texts, positives, planted)
    checks = {check: (holds, negatives["document_id"]) for check, holds in rows.items()}
    counts = negatives[~negatives["backfilled"]].groupby("query_id").size()
    found = pd.Series({query: counts.get(query, 0) for query in queries})
    short = (found < wanted).to_numpy()
    checks["shortfall"] = (short, pd.Series(found.index))
    unknown = set(limits) - set(checks)
    if unknown:
        raise LabError(f"no check is called {min(unknown)!r}: {', '.join(checks)}")
    report = pd.DataFrame(
        [
            {
                "check": check,
                "count": int(holds.sum()),
                "of": len(holds),
                "share": float(holds.mean()) if len(holds) else 0.0,
                "limit": limits.get(check, np.nan),
                "example": next(iter(about[holds]), ""),
            }
            for check, (holds, about) in checks.items()
        ]
    )
    report.insert(5, "passed", ~(report["share"] > report["limit"]))
    if fail:
        demand(report)
    return report


def demand(report: pd.DataFrame) -> None:
    """LabError that names every check of `audit`'s report above its limit."""
    if not report["passed"].all():
        faults = report[~report["passed"]]
        named = "; ".join(
            f"{row.check}: {row.count} of {row.of}, such as {row.example}"
            for row in faults.itertuples(index=False)
        )
        raise LabError(f"the mined negatives fail the audit: {named}")


def false_negatives(
    negatives: pd.DataFrame, planted: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    """Per query with planted positives: how many were mined, and how many negatives.

    Columns query_id (as index), planted, negatives; the rate is the ratio of sums.
    """
    mine = negatives[negatives["query_id"].isin(list(planted))]
    false = _is_in(mine, planted)
    counts = pd.DataFrame({"planted": false, "negatives": 1}).groupby(
        mine["query_id"].to_numpy()
    )
    return counts.sum().reindex(list(planted), fill_value=0).rename_axis("query_id")


def rate(
    counts: pd.DataFrame, *, samples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """False-negative rate and its 95 % bootstrap interval over queries.

    counts: a table of `false_negatives`. Returns (rate, low, high) as shares; nan where
    nothing was mined.
    """
    if not counts["negatives"].any():
        return (np.nan, np.nan, np.nan)
    draws = _resampled_rates(counts, samples, seed)
    value = counts["planted"].sum() / counts["negatives"].sum()
    return (float(value), *np.nanquantile(draws, [0.025, 0.975]).tolist())


def reduction(
    counts: pd.DataFrame, baseline: pd.DataFrame, *, samples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Share of the baseline's false-negative rate that is gone, with 95 % interval.

    Paired: both tables are of the same queries, resampled together.
    """
    if not counts.index.equals(baseline.index):
        raise LabError("a paired comparison needs the same queries in both tables")
    value = _share_gone(counts.sum(), baseline.sum())
    if not np.isfinite(value):
        return (np.nan, np.nan, np.nan)
    ours = _resampled_rates(counts, samples, seed)
    theirs = _resampled_rates(baseline, samples, seed)
    with np.errstate(divide="ignore", invalid="ignore"):
        draws = 1 - ours / theirs
    draws = draws[np.isfinite(draws)]
    return (value, *np.quantile(draws, [0.025, 0.975]).tolist())


def hardness(
    negatives: pd.DataFrame, planted: Mapping[str, Sequence[str]] | None = None
) -> float:
    """Mean teacher score of the negatives over the mean score of their positives.

    1 is as similar as the positive. With `planted`, only queries that have planted
    positives count, and the planted ones do not: they are hard because they are right.
    """
    mine = negatives[~negatives["backfilled"]]
    if planted is not None:
        mine = mine[mine["query_id"].isin(list(planted))]
        mine = mine[~_is_in(mine, planted)]
    return float(mine["score"].mean() / mine["positive_score"].mean())


def _is_in(rows: pd.DataFrame, pairs: Mapping[str, Sequence[str]]) -> np.ndarray:
    known = {(query, name) for query, names in pairs.items() for name in names}
    own = zip(rows["query_id"], rows["document_id"], strict=True)
    return np.fromiter((pair in known for pair in own), bool, len(rows))


def _normal(negatives, queries, texts) -> pd.Series:
    """The normalised text of every row's document."""
    missing = set(negatives["query_id"]) - set(queries)
    if missing:
        raise LabError(f"query {min(missing)!r} was mined for but is not given")
    missing = set(negatives["document_id"]) - set(texts)
    if missing:
        raise LabError(f"document {min(missing)!r} was mined but is not in the corpus")
    names = negatives["document_id"].unique()
    return negatives["document_id"].map({n: normalise(texts[n]) for n in names})


def _row_checks(negatives, queries, texts, positives, planted) -> dict[str, np.ndarray]:
    text = _normal(negatives, queries, texts)
    mined = set(negatives["query_id"])
    positives = {query: positives.get(query, ()) for query in queries}
    anyones = {name for names in positives.values() for name in names}
    known = [
        (q, normalise(texts[p])) for q in mined for p in positives[q] if p in texts
    ]
    asked = [(query, normalise(queries[query])) for query in mined]
    pairs = pd.MultiIndex.from_arrays([negatives["query_id"], text])
    own = _is_in(negatives, positives)
    within = negatives[["query_id", "positive_id"]].assign(text=text)
    checks = {
        "own positive": own,
        "equal to own positive": pairs.isin(known) & ~own,
        "equal to query": pairs.isin(asked),
        "duplicate": within.duplicated().to_numpy(),
        "at or above ceiling": (
            (negatives["score"] >= negatives["ceiling"]) & ~negatives["backfilled"]
        ).to_numpy(),
        "another query's positive": negatives["document_id"].isin(anyones).to_numpy()
        & ~own,
        "backfilled": negatives["backfilled"].to_numpy(dtype=bool),
    }
    if planted is not None:
        checks["planted false negative"] = _is_in(negatives, planted)
    return checks


def _resampled_rates(counts: pd.DataFrame, samples: int, seed: int) -> np.ndarray:
    weights = _weights(len(counts), samples, seed)
    sums = weights @ counts[["planted", "negatives"]].to_numpy(float)
    return sums[:, 0] / np.where(sums[:, 1], sums[:, 1], np.nan)


@lru_cache(maxsize=4)
def _weights(size: int, samples: int, seed: int) -> np.ndarray:
    """How often each query is drawn, (samples, size): the same for every table."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(size, np.full(size, 1 / size), size=samples).astype(float)


def _share_gone(ours: pd.Series, theirs: pd.Series) -> float:
    if not (ours["negatives"] and theirs["planted"]):
        return np.nan
    base = theirs["planted"] / theirs["negatives"]
    return float(1 - ours["planted"] / ours["negatives"] / base)
