"""Training instances: records of the training split, or a set, with their negatives."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from nbutils.core import processes
from nbutils.core.errors import LabError
from nbutils.core.files import read_table
from nbutils.core.records import LEVELS, GradedExample, Records, TrainingInstance
from nbutils.core.retrieval import RetrievalSet
from nbutils.core.settings import DATA
from nbutils.core.text import normalise

MINED = DATA / "results" / "mined_negatives.parquet"
RETRIEVAL_INSTRUCTION = "Given a query, retrieve the passage that answers it"


def training_data(
    records: Records, mined: Path = MINED, known: str = "labelled"
) -> list[TrainingInstance]:
    """Graded examples, then retrieval items, with what the table `mined` has for them.

    Only an item's labelled positive is trained on, and only SyNeg's negatives at the
    matched level. `known` (setting `known_positives`) says what is never a negative of
    any record that asks the same: `labelled` positives, or `all`, planted ones too.

    The table holds `query_id` and `document_id`; rows of queries or documents that are
    not in these records' training split (fewer families, say) are left out, and said.
    LabError if the table is missing, has other columns, or nothing of it is left.
    """
    own = [r for r in (*records.graded, *records.items) if r.split == "train"]
    texts = {i: text for record in own for i, text in record.documents().items()}
    retrieved = _by_query(_rows_of(mined, {record.id for record in own}, texts), texts)
    matched = [s for s in records.syneg if s.attribute == "matched"]
    written = {s.item_id: s.negatives for s in matched}
    right: dict[str, dict[str, str]] = defaultdict(dict)  # by query and by text
    for record in own:
        positive, *others = record.documents().values()
        planted = known == "all" and not isinstance(record, GradedExample)
        for text in (positive, *(others if planted else ())):
            right[normalise(record.query)].setdefault(normalise(text), text)
    made = []
    for record in own:
        positive, *others = record.documents().values()
        answers = right[normalise(record.query)]
        graded = isinstance(record, GradedExample)
        made.append(
            TrainingInstance(
                id=record.id,
                dataset=f"mgh/{record.group}" if graded else "syneg",
                instruction=record.task if graded else RETRIEVAL_INSTRUCTION,
                query=record.query,
                positive=positive,
                graded=dict(zip(LEVELS, others, strict=True)) if graded else {},
                synthetic=written.get(record.id, ()),
                retrieved=retrieved.get(record.id, ()),
                known_positives=tuple(
                    text for key, text in answers.items() if key != normalise(positive)
                ),
            )
        )
    return made


def set_instances(
    data: RetrievalSet,
    mined: pd.DataFrame | None = None,
    written: Mapping[str, Sequence[str]] | None = None,
    instruction: str = RETRIEVAL_INSTRUCTION,
    graded: Sequence[GradedExample] = (),
) -> list[TrainingInstance]:
    """The queries of any retrieval set, with their mined and `written` negatives.

    mined: columns query_id and document_id; written: query id to texts of a language
    model. The first labelled positive is trained on, the others are never negatives.
    graded: ladders for its queries, such as `nbutils grade` writes. LabError for a
    table of another form or of documents that the set has not, and for negatives of
    which none is for its queries.
    """
    texts, written = data.corpus.set_index("id")["text"], written or {}
    retrieved = {} if mined is None else _by_query(mined, texts)
    ladders = {e.query: dict(zip(LEVELS, e.negatives, strict=True)) for e in graded}
    for kind, found, own in (
        ("mined negative", retrieved, data.queries),
        ("graded example", ladders, data.queries.values()),
    ):
        if found and found.keys().isdisjoint(own):
            raise LabError(f"no {kind} is for a query of this part of {data.name}")
    return [
        TrainingInstance(
            id=query_id,
            dataset=data.name,
            instruction=instruction,
            query=query,
            positive=texts[data.positives[query_id][0]],
            graded=ladders.get(query, {}),
            synthetic=tuple(written.get(query_id, ())),
            retrieved=retrieved.get(query_id, ()),
            known_positives=tuple(texts[i] for i in data.positives[query_id][1:]),
        )
        for query_id, query in data.queries.items()
    ]


def _by_query(mined: pd.DataFrame, texts: Mapping[str, str]) -> dict[str, tuple]:
    if not {"query_id", "document_id"} <= set(mined.columns):
        raise LabError("this is no table of mined negatives: mine with --format table")
    named = mined.assign(text=mined["document_id"].map(texts))
    if lost := named.loc[named["text"].isna(), "document_id"].tolist():
        raise LabError(f"document {lost[0]!r} is mined and not in this set: mine anew")
    return named.groupby("query_id", sort=False)["text"].agg(tuple).to_dict()


def _rows_of(mined: Path, queries: set[str], documents: Mapping) -> pd.DataFrame:
    """The rows of a table of mined negatives that are of these records."""
    table = read_table(mined)
    if not {"query_id", "document_id"} <= set(table.columns):
        raise LabError(f"{mined} is no table of mined negatives: run notebook 03 first")
    table = table[table["query_id"].isin(queries)]
    kept = table[table["document_id"].isin(documents)]
    if kept.empty:
        raise LabError(f"{mined} has no row for these records: run notebook 03 first")
    if len(kept) < len(table) and processes.is_main():
        left = len(table) - len(kept)
        print(f"{left} of {len(table)} mined rows are of other passages: left out")
    return kept
