"""What was mined, checked: the faults that other miners ship, and the known truth.

A false negative is a mined document that answers the query. Where unlabelled positives
were planted, their share is counted; NV-Retriever estimates it with a judge.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from nbutils.core.errors import LabError
from nbutils.core.retrieval import RetrievalSet
from nbutils.core.statistics import bootstrap, ratio
from nbutils.core.text import normalise


def check_mined(
    negatives: pd.DataFrame,
    data: RetrievalSet,
    wanted: int,
    *,
    repeats: bool = False,
    fail: bool = False,
) -> pd.DataFrame:
    """Check mined negatives (`methods.Mined.negatives`) of a set.

    wanted: negatives a query should have; repeats: whether they are kept on purpose,
    as by intra-sample ensembles. One row a check: check, count, of, share, passed
    (always, where it only informs), example. LabError for a table of another form or
    set and, with `fail`, that names every check that did not pass.
    """
    if not {"query_id", "document_id", "ceiling"} <= set(negatives.columns):
        raise LabError("this is no table of mined negatives: mine with --format table")
    if lost := set(negatives["query_id"]) - data.queries.keys():
        raise LabError(f"query {min(lost)!r} is mined, not of this set: mine this one")
    query, document = negatives["query_id"], negatives["document_id"]
    mined, drawn = set(query), negatives["backfilled"].astype(bool)
    anyones = {name for names in data.positives.values() for name in names}
    used = data.corpus[data.corpus["id"].isin(anyones | {*document})]
    normal = dict(zip(used["id"], used["text"].map(normalise), strict=True))
    text = document.map(normal)
    pairs = pd.MultiIndex.from_arrays([query, text])
    answers = [(q, normal[name]) for q in mined for name in data.positives[q]]
    asked = [(q, normalise(data.queries[q])) for q in mined]
    own = _is_in(negatives, data.positives)
    same = negatives[["query_id", "positive_id"]].assign(text=text)
    faults = {
        "own positive": own,
        "equal to own positive": pairs.isin(answers) & ~own,
        "equal to query": pairs.isin(asked),
        "duplicate": same.duplicated(),
        "at or above ceiling": (negatives["score"] >= negatives["ceiling"]) & ~drawn,
    }
    known = {"another query's positive": document.isin(anyones) & ~own}
    if repeats:
        known["duplicate"] = faults.pop("duplicate")
    known["backfilled"] = drawn
    if data.planted:
        known["planted false negative"] = _is_in(negatives, data.planted)
    checks = {
        check: pd.Series(np.asarray(holds), index=document)
        for check, holds in (faults | known).items()
    }
    counts = query[~drawn].value_counts()
    checks["shortfall"] = counts.reindex(list(data.queries), fill_value=0) < wanted
    if counts.empty:  # not every query may lack all
        faults["shortfall"] = checks["shortfall"]
    report = pd.DataFrame(
        {
            "check": check,
            "count": int(holds.sum()),
            "of": len(holds),
            "share": float(holds.mean()) if len(holds) else 0.0,
            "passed": check not in faults or not holds.any(),
            "example": next(iter(holds.index[holds]), ""),
        }
        for check, holds in checks.items()
    )
    if fail:
        demand(report)
    return report


def demand(report: pd.DataFrame) -> None:
    """LabError that names every check of `check_mined`'s report that did not pass."""
    faults = [
        f"{row.check}: {row.count} of {row.of}, such as {row.example}"
        for row in report[~report["passed"]].itertuples(index=False)
    ]
    if faults:
        raise LabError(f"the mined negatives fail the audit: {'; '.join(faults)}")


def _is_in(rows: pd.DataFrame, pairs: Mapping[str, Sequence[str]]) -> np.ndarray:
    wanted = {(query, name) for query, names in pairs.items() for name in names}
    own = zip(rows["query_id"], rows["document_id"], strict=True)
    return np.fromiter((pair in wanted for pair in own), bool, len(rows))


def false_negatives(
    negatives: pd.DataFrame, planted: Mapping[str, Sequence[str]]
) -> pd.DataFrame:
    """Per query with planted positives: how many were mined, and how many negatives.

    Columns query_id (as index), planted, negatives.
    """
    mine = negatives[negatives["query_id"].isin(list(planted))]
    counts = pd.DataFrame({"planted": _is_in(mine, planted), "negatives": 1})
    counts = counts.groupby(mine["query_id"].to_numpy()).sum()
    return counts.reindex(list(planted), fill_value=0).rename_axis("query_id")


def rate(
    counts: pd.DataFrame, *, samples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """False-negative rate of `false_negatives`, and its 95 % interval over queries.

    (rate, low, high) as shares; nan where nothing was mined.
    """
    return bootstrap(ratio, counts[["planted", "negatives"]], samples, seed)


def reduction(
    counts: pd.DataFrame, baseline: pd.DataFrame, *, samples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Share of the baseline's false-negative rate that is gone, with 95 % interval.

    Paired: both tables are of the same queries, resampled together; else LabError.
    """
    if not counts.index.equals(baseline.index):
        raise LabError("two counts are compared on the same queries: give both alike")
    columns = ["planted", "negatives"]
    sums = np.concatenate([counts[columns], baseline[columns]], axis=1)
    return bootstrap(
        lambda t: 1 - ratio(t[..., :2]) / ratio(t[..., 2:]), sums, samples, seed
    )


def hardness(negatives: pd.DataFrame, planted: Mapping[str, Sequence[str]]) -> float:
    """Mean teacher score of the negatives over the mean score of their positives.

    1 is as similar as the positive. Of queries that have planted positives, without
    these: they are hard because they are right.
    """
    mine = negatives[negatives["query_id"].isin(list(planted))]
    mine = mine[~mine["backfilled"] & ~_is_in(mine, planted)]
    return float(mine["score"].mean() / mine["positive_score"].mean())
