"""Records + mined table -> traininginstance."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from nbutils.core import processes
from nbutils.core.errors import LabError, nearest
from nbutils.core.files import read_table
from nbutils.core.records import (
    LEVELS,
    GradedExample,
    Records,
    RetrievalItem,
    SynegExample,
    TrainingInstance,
)
from nbutils.core.retrieval import passages
from nbutils.core.settings import DATA
from nbutils.core.text import normalise
from nbutils.training.curriculum import KNOWN, RETRIEVAL_INSTRUCTION


def instances(
    graded: Sequence[GradedExample],
    items: Sequence[RetrievalItem],
    syneg: Sequence[SynegExample],
    mined: pd.DataFrame | None = None,
    *,
    split: str = "train",
    known: str = "labelled",
) -> list[TrainingInstance]:
    """Training instances of a split: graded examples, then retrieval items.

    `mined` holds `query_id` and `text` of retrieved negatives. Only the items' first,
    labelled positive is trained on; only SyNeg negatives at the matched level. What a
    query may never have as a negative follows `known` (see `right_answers`).
    """
    right = right_answers(graded, items, split=split, known=known)
    retrieved: dict[str, tuple[str, ...]] = {}
    if mined is not None:
        groups = mined.groupby("query_id", sort=False)["text"]
        retrieved = {query_id: tuple(texts) for query_id, texts in groups}
    written = {s.item_id: s.negatives for s in syneg if s.attribute == "matched"}
    made = [
        TrainingInstance(
            id=example.id,
            dataset=f"mgh/{example.group}",
            instruction=example.task,
            query=example.query,
            positive=example.positive,
            graded=dict(zip(LEVELS, example.negatives, strict=True)),
            retrieved=retrieved.get(example.id, ()),
            known_positives=_others(right, example.query, example.positive),
        )
        for example in graded
        if example.split == split
    ]
    made += [
        TrainingInstance(
            id=item.id,
            dataset="syneg",
            instruction=RETRIEVAL_INSTRUCTION,
            query=item.query,
            positive=item.positives[0],
            synthetic=written.get(item.id, ()),
            retrieved=retrieved.get(item.id, ()),
            known_positives=_others(right, item.query, item.positives[0]),
        )
        for item in items
        if item.split == split
    ]
    return made


def right_answers(
    graded: Sequence[GradedExample],
    items: Sequence[RetrievalItem],
    *,
    split: str = "train",
    known: str = "labelled",
) -> dict[str, dict[str, str]]:
    """Every known positive of every query of a split, queries told apart by their text.

    Two records that ask the same share their positives. `labelled`: the first positive
    of a retrieval item, as a trainer of a public set knows it; `all`: also the planted
    ones, which mining is not told of. Returns normalised query to {normalised text:
    text}; LabError for another `known`.
    """
    if known not in KNOWN:
        raise LabError(f"unknown known_positives {known!r}{nearest(known, KNOWN)}")
    count = 1 if known == "labelled" else None
    found: dict[str, dict[str, str]] = {}
    for record in (*graded, *items):
        if record.split != split:
            continue
        graded_one = isinstance(record, GradedExample)
        texts = (record.positive,) if graded_one else record.positives[:count]
        own = found.setdefault(normalise(record.query), {})
        for text in texts:
            own.setdefault(normalise(text), text)
    return found


def _others(right: dict[str, dict[str, str]], query: str, positive: str) -> tuple:
    """A query's known positives beside the one that it is trained on."""
    texts = right[normalise(query)].items()
    return tuple(text for key, text in texts if key != normalise(positive))


MINED = DATA / "results" / "mined_negatives.parquet"


def training_data(
    records: Records, mined: Path = MINED, known: str = "labelled"
) -> list[TrainingInstance]:
    """Training instances with their retrieved negatives from a mined table.

    `known` is the setting `known_positives`.

    The table holds `query_id` and `document_id`; rows of queries or documents that are
    not in these records' training split (fewer families, say) are left out, and said.
    LabError if the table is missing, has other columns, or nothing of it is left.
    """
    table = read_table(mined)
    if not {"query_id", "document_id"} <= set(table.columns):
        raise LabError(f"{mined} is no table of mined negatives: run notebook 03 first")
    corpus = passages(records.items, records.graded, ["train"])
    texts = dict(zip(corpus["id"], corpus["text"], strict=True))
    wanted = {r.id for r in [*records.graded, *records.items] if r.split == "train"}
    table = table[table["query_id"].isin(wanted)]
    kept = table.assign(text=table["document_id"].map(texts)).dropna(subset="text")
    if kept.empty:
        raise LabError(f"{mined} has no row for these records: run notebook 03 first")
    if len(kept) < len(table) and processes.is_main():
        left = len(table) - len(kept)
        print(f"{left} of {len(table)} mined rows are of other passages: left out")
    table = kept
    return instances(records.graded, records.items, records.syneg, table, known=known)
