"""Mined negatives in the forms that sentence-transformers' trainers read."""

from __future__ import annotations

import pandas as pd

from nbutils.core.errors import LabError, known
from nbutils.core.retrieval import RetrievalSet

FORMATS = ("table", "triplet", "n-tuple", "labeled-pair", "labeled-list")
"""`table`: `methods.Mined.negatives` as it is; the others go by the library's names."""


def check_format(form: str, scores: bool, suffix: str) -> None:
    """LabError for an unknown format, and for lists in a csv, which has none."""
    known("format", form, FORMATS)
    pairs = form in ("table", "labeled-pair")
    if suffix == ".csv" and not pairs and (scores or form == "labeled-list"):
        raise LabError(f"a csv holds no lists, which {form} needs: name a .parquet")


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
    texts = data.corpus.set_index("id")["text"]
    asked, made = pd.Series(data.queries), []
    rows = negatives[~negatives["backfilled"].astype(bool)] if scores else negatives
    most = rows.groupby("query_id").size().max()
    for query, own in rows.groupby("query_id", sort=False):
        anchor, found = {"anchor": asked[query]}, texts[own["document_id"]].tolist()
        given = [own["positive_id"].iloc[0]] if scores else data.positives[query]
        positives = texts[given].tolist()
        best, below = own["positive_score"].iloc[0], own["score"].tolist()
        told = "score" if scores else "label"
        if form == "labeled-pair":
            marks = [best, *below] if scores else [1] * len(given) + [0] * len(own)
            for text, mark in zip([*positives, *found], marks, strict=True):
                made.append({**anchor, "document": text, told: mark})
            continue
        for positive in positives:
            both = {**anchor, "positive": positive}
            if form == "labeled-list":
                marks = [best, *below] if scores else [1] + [0] * len(own)
                documents = [positive, *found]
                made.append({**anchor, "documents": documents, f"{told}s": marks})
            elif form == "triplet":
                for text, score in zip(found, below, strict=True):
                    more = {"scores": [best, score]} if scores else {}
                    made.append({**both, "negative": text, **more})
            elif len(found) == most:
                both |= {f"negative_{n}": text for n, text in enumerate(found, 1)}
                made.append({**both, **({"scores": [best, *below]} if scores else {})})
    return pd.DataFrame(made)
