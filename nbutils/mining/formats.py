"""Mined negatives in the forms that sentence-transformers' trainers read."""

from __future__ import annotations

import pandas as pd

from nbutils.core.errors import known
from nbutils.core.retrieval import RetrievalSet

FORMATS = ("table", "triplet", "n-tuple", "labeled-pair", "labeled-list")
"""`table`: `methods.Mined.negatives` as it is; the others go by the library's names."""


def training_rows(
    negatives: pd.DataFrame, data: RetrievalSet, form: str, scores: bool = False
) -> pd.DataFrame:
    """Texts of mined negatives (`methods.Mined.negatives`) as a trainer reads them.

    triplet: anchor, positive, negative. n-tuple: anchor, positive, negative_1 to
    negative_n; a query that has fewer is left out. labeled-pair: anchor, document,
    label (1 of a positive). labeled-list: anchor, documents, labels. Every labelled
    positive has its own rows. With `scores`, the teacher's go into a column `scores`
    (positive's first), or take the label's place; then only the positive whose score
    made the ceiling is written, and no negative that was drawn to fill a gap.
    """
    if known("format", form, FORMATS) == "table":
        return negatives
    texts, made = data.corpus.set_index("id")["text"], []
    rows = negatives[~negatives["backfilled"].astype(bool)] if scores else negatives
    most = max(rows["query_id"].value_counts(), default=0)
    told = "score" if scores else "label"
    for query, own in rows.groupby("query_id", sort=False):
        first, asked = own.iloc[0], data.queries[query]
        found, below = texts[own["document_id"]].tolist(), own["score"].tolist()
        given, best = [first["positive_id"]], first["positive_score"]
        if not scores:
            given, best, below = data.positives[query], 1, [0] * len(own)
        marks = [[best, *below]] if scores else []
        if form == "labeled-pair":
            made += [(asked, text, best) for text in texts[given]]
            made += [(asked, *pair) for pair in zip(found, below, strict=True)]
            continue
        for positive in texts[given]:
            if form == "labeled-list":
                made.append((asked, [positive, *found], [best, *below]))
            elif form == "triplet":
                pairs = [[[best, score]] if scores else [] for score in below]
                both = zip(found, pairs, strict=True)
                made += [(asked, positive, text, *pair) for text, pair in both]
            elif len(found) == most:
                made.append((asked, positive, *found, *marks))
    names = {
        "triplet": ["positive", "negative"],
        "n-tuple": ["positive", *(f"negative_{n + 1}" for n in range(most))],
        "labeled-pair": ["document", told],
        "labeled-list": ["documents", f"{told}s"],
    }[form]
    listed = ["scores"] if scores and "labeled" not in form else []
    return pd.DataFrame(made, columns=["anchor", *names, *listed])
