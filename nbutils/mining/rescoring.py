"""A second opinion on stored candidates: a cross-encoder reads query and document.

It sees what vectors cannot, and costs one reading a pair, so it scores only the
candidates that a cheaper teacher found, and the positives, on its own scale.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from nbutils.core.errors import LabError
from nbutils.mining.candidates import Candidates, digest


def rescore(
    candidates: Candidates,
    model,
    queries: Mapping[str, str],
    texts: Mapping[str, str],
    *,
    name: str = "cross-encoder",
    batch: int = 32,
) -> Candidates:
    """The same candidates with a cross-encoder's scores, ranked by them.

    model: a sentence-transformers `CrossEncoder`, or whatever has its `predict` (pairs
    of texts to scores). texts: document id to text. Positives are rescored too, so
    every ceiling is on the model's scale; ranks count among the candidates only. Equal
    scores keep their order. LabError for scores that are not one number a pair.
    """
    table, positives = candidates.table, candidates.positives
    both = pd.concat([table, positives], ignore_index=True)
    pairs = [
        (queries[query], texts[document])
        for query, document in both[["query_id", "document_id"]].itertuples(index=False)
    ]
    scores = np.asarray(
        model.predict(pairs, batch_size=batch, show_progress_bar=False), dtype=float
    )
    if scores.shape != (len(pairs),) or not np.isfinite(scores).all():
        raise LabError(
            f"{name} gave scores of shape {scores.shape} for {len(pairs)} pairs: it "
            "must give one finite number a pair"
        )
    table = _ranked(table.assign(score=scores[: len(table)].astype(np.float32)))
    positives = positives.assign(score=scores[len(table) :].astype(np.float32))
    ranks = table.set_index(["query_id", "document_id"])["rank"]
    keys = pd.MultiIndex.from_frame(positives[["query_id", "document_id"]])
    positives = positives.assign(rank=ranks.reindex(keys).fillna(0).array)
    teacher = f"{candidates.teacher} + {name}"
    fingerprint = digest(candidates.fingerprint, name, scores.tolist())
    positives = positives.astype({"rank": np.int32})
    return Candidates(table, positives, teacher, fingerprint)


def _ranked(table: pd.DataFrame) -> pd.DataFrame:
    """Rows by query, best first, with ranks anew."""
    place = pd.factorize(table["query_id"])[0]
    order = np.lexsort((table["rank"], -table["score"], place))
    table = table.iloc[order].reset_index(drop=True)
    rank = table.groupby("query_id", sort=False).cumcount() + 1
    return table.assign(rank=rank.astype(np.int32))
