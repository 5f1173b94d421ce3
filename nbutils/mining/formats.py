"""Mined negatives in the forms that sentence-transformers' trainers read."""

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
        asked, found = data.queries[query], texts[own["document_id"]].tolist()
        given, best, below = data.positives[query], 1, [0] * len(own)
        if scores:
            given, best = own["positive_id"][:1], own["positive_score"].iloc[0]
            below = own["score"].tolist()
        positives, marks = texts[given].tolist(), [best, *below]
        if form == "labeled-pair":
            marks = [best] * len(positives) + below
            for text, mark in zip(positives + found, marks, strict=True):
                made.append({"anchor": asked, "document": text, told: mark})
            continue
        for positive in positives:
            row = {"anchor": asked, "positive": positive}
            if form == "labeled-list":
                listed = [positive, *found]
                made.append({"anchor": asked, "documents": listed, f"{told}s": marks})
            elif form == "triplet":
                for text, mark in zip(found, below, strict=True):
                    made.append({**row, "negative": text, "scores": [best, mark]})
            elif len(found) == most:
                numbered = {f"negative_{n}": text for n, text in enumerate(found, 1)}
                made.append({**row, **numbered, "scores": marks})
    table = pd.DataFrame(made)
    return table if scores else table.drop(columns="scores", errors="ignore")
