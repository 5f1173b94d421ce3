"""Retrieval sets: read from BEIR's format, or made from the lab's own records.

BEIR's: corpus.jsonl and queries.jsonl (or .jsonl.gz) with `_id`, `text` and perhaps
`title`; qrels/SPLIT.tsv with query-id, corpus-id and score, above 0 for a positive.
"""

import hashlib
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from nbutils.core.draws import key
from nbutils.core.errors import LabError
from nbutils.core.files import read_jsonl, read_lines, read_table
from nbutils.core.records import GradedExample, Records, RetrievalItem, Split
from nbutils.core.text import normalise

HELD_OUT = ("held-out-tasks", "held-out-family")


@dataclass(frozen=True)
class RetrievalSet:
    """Queries with the corpus that is searched for them: what every room speaks of.

    queries: id to text. corpus: a frame with the columns id and text. By query id:
    positives, the labelled documents; planted, right answers that are not labelled;
    excluded, documents that may be no candidate of the query; grades, how relevant a
    labelled document is, where that is not 1.
    """

    name: str
    queries: dict[str, str]
    corpus: pd.DataFrame
    positives: dict[str, list[str]]
    planted: dict[str, list[str]] = field(default_factory=dict)
    excluded: dict[str, list[str]] = field(default_factory=dict)
    grades: dict[str, dict[str, int]] = field(default_factory=dict)


# pandas writes NaN for a text that is not there
Text = Annotated[str | None, BeforeValidator(lambda v: None if v != v else v)]


class Line(BaseModel):
    """A line of corpus.jsonl or queries.jsonl; other keys are ignored."""

    model_config = ConfigDict(strict=True)
    id: str = Field(alias="_id", min_length=1)
    title: Text = None
    text: Text = None


def read_set(
    folder: str | Path,
    split: str = "train",
    skip_missing: bool = False,
    say: Callable[[str], None] = print,
) -> RetrievalSet:
    """The queries of a split that have a positive, with the whole corpus.

    Documents without any text are left out. LabError for a file or split that is not
    there and a line that cannot be read; also for queries and positives without a text,
    all at once, unless `skip_missing` leaves them out and says so. In place of a folder
    a .parquet, .csv or .jsonl file is a `pair_set`.
    """
    folder = Path(folder)
    if folder.is_file():
        lines = folder.suffix == ".jsonl"
        pairs = read_jsonl(folder) if lines else read_table(folder, words=True)
        return pair_set(pairs, name=folder.stem)
    if not folder.is_dir():
        raise LabError(
            f"{folder} is no folder: give one that holds corpus.jsonl, queries.jsonl "
            "and qrels/, as BEIR's, or a file of pairs"
        )
    pairs = _read_qrels(folder, split)
    queries, corpus = _read_texts(folder, "queries"), _read_texts(folder, "corpus")
    told = [
        f"{name}.jsonl has no text of {len(lost)}: {', '.join(sorted(lost)[:20])}"
        for name, n, texts in (("queries", 0, queries), ("corpus", 1, corpus))
        if (lost := {repr(pair[n]) for pair in pairs if pair[n] not in texts})
    ]
    fault = f"of the ids that the qrels of {folder} name, {'; '.join(told)}"
    if told and not skip_missing:
        raise LabError(f"{fault}: mend the files, or leave them out (--skip-missing)")
    if told:
        say(f"left out: {fault}")
    positives: dict[str, list[str]] = {}
    grades: dict[str, dict[str, int]] = {}
    for (query, document), grade in pairs.items():
        if query in queries and document in corpus:
            positives.setdefault(query, []).append(document)
            if grade != 1:
                grades.setdefault(query, {})[document] = grade
    if not positives:
        raise LabError(f"no query of {folder} has a positive with a text")
    own = {query: queries[query] for query in positives}
    name = folder.resolve().name
    return RetrievalSet(name, own, _frame(corpus), positives, grades=grades)


def pair_set(
    pairs: Any, corpus: Iterable[str] = (), name: str = "pairs"
) -> RetrievalSet:
    """The set of pairs of a query and a positive, such as a `datasets.Dataset`.

    The first two columns count, as for sentence-transformers; a query that stands twice
    has two positives. corpus: further documents. LabError names a row without text.
    """
    try:
        pairs = pairs.to_pandas() if hasattr(pairs, "to_pandas") else pairs
        pairs, more = pd.DataFrame(pairs).iloc[:, :2], pd.Series([*corpus], dtype="str")
    except UnicodeEncodeError:
        fault = "holds half a character (a surrogate)"
        raise LabError(f"{name} {fault}: mend it") from None
    if pairs.shape[1] < 2 or pairs.empty:
        raise LabError(f"{name} needs rows with two columns, a query and a positive")
    for row, pair in enumerate(pairs.itertuples(index=False), 1):
        for value in pair:
            if not (isinstance(value, str) and value.strip()):
                fault = f"{name}, row {row}: {value!r:.60} is no text"
                raise LabError(f"{fault}: mend it or leave the row out")
    pairs = pairs.drop_duplicates()
    positives: dict[str, list[str]] = {}
    asked, texts = {}, {_name("d", text): text for text in (*pairs.iloc[:, 1], *more)}
    for query, document in pairs.itertuples(index=False):
        asked[_name("q", query)] = query
        positives.setdefault(_name("q", query), []).append(_name("d", document))
    return RetrievalSet(name, asked, _frame(texts), positives)


def _name(kind: str, text: str) -> str:
    """An id by the text alone: the same in whatever order the pairs are read."""
    return f"{kind}{key(text):016x}"


def _read_qrels(folder: Path, split: str) -> dict[tuple[str, str], int]:
    """Pairs (query id, id of a positive) to the grade, in the file's order."""
    path = folder / "qrels" / f"{split}.tsv"
    if not path.is_file():
        there = ", ".join(sorted(p.stem for p in path.parent.glob("*.tsv")))
        raise LabError(
            f"{folder} has no split {split!r} in BEIR's format: "
            f"it has {there or 'no qrels'}"
        )
    names: list[str] = []
    pairs: dict[tuple[str, str], int] = {}
    for number, line in read_lines(path):
        cells = line.split("\t")
        row = dict(zip(names or cells, cells, strict=False))
        try:
            pair, score = (row["query-id"], row["corpus-id"]), row["score"]
            if names and not math.isfinite(float(score)):
                raise ValueError
        except (KeyError, ValueError):
            raise LabError(
                f"{path}, line {number}: it needs the columns query-id, corpus-id and "
                f"score (a number), separated by tabs; here is {line[:60]!r}"
            ) from None
        if names and float(score) > 0:
            pairs[pair] = max(1, round(float(score)))
        names = names or cells  # of the first line
    if not pairs:
        raise LabError(
            f"{path} marks no positive (a score above 0): name another split"
        )
    return pairs


def _read_texts(folder: Path, name: str) -> dict[str, str]:
    """Id to text, title first, of all that have one."""
    path, packed = folder / f"{name}.jsonl", folder / f"{name}.jsonl.gz"
    path = packed if packed.exists() and not path.exists() else path
    found: dict[str, str] = {}
    for row in read_jsonl(path, Line):
        if row.id in found:
            raise LabError(f"{path}: id {row.id!r} stands twice")
        found[row.id] = "\n".join(filter(None, (row.title, row.text)))
    return {key: text for key, text in found.items() if text.strip()}


def _frame(documents: dict[str, str]) -> pd.DataFrame:
    return pd.DataFrame({"id": list(documents), "text": list(documents.values())})


def local_set(name: str, records: Records) -> RetrievalSet:
    """The evaluation set of split `name` (`held-out-tasks`, `held-out-family`, `dev`).

    Document ids are blind; planted are an item's other right answers. LabError if no
    graded example is in the split under these settings.
    """
    own = [r for r in (*records.graded, *records.items) if r.split == name]
    if not any(isinstance(record, GradedExample) for record in own):
        raise LabError(
            f"no recorded example is in split {name!r}: check max_items, and families "
            "(industry is the one held out)"
        )
    texts: dict[str, str] = {}
    positives, planted = {}, {}
    for record in own:
        documents = {blind(i): text for i, text in record.documents().items()}
        texts |= documents
        first, *others = documents
        positives[record.id] = [first]
        if isinstance(record, RetrievalItem):
            planted[record.id] = others
    queries = {record.id: record.query for record in own}
    return RetrievalSet(name, queries, _frame(texts), positives, planted)


def ladder_ids(graded: Iterable[GradedExample]) -> dict[str, list[str]]:
    """Graded query id to the blind ids of its documents, P then N1 to N4."""
    return {e.id: [blind(i) for i in e.documents()] for e in graded}


def blind(document_id: str) -> str:
    """A document id that does not tell positives from negatives.

    trec_eval breaks ties by id; an id that ends in P would win every tie over one
    that ends in N, which flatters BM25, whose scores are often equal (zero).
    """
    return hashlib.sha256(document_id.encode()).hexdigest()[:16]


def passages(
    items: Iterable[RetrievalItem],
    graded: Iterable[GradedExample],
    splits: Iterable[Split],
) -> pd.DataFrame:
    """The passages of some splits as a table: id, text, family, kind, ids.

    `kind` is the last part of the id: P0 labelled, P1 and P2 planted, P and N1 to N4
    of a graded example. Passages with the same text are one row under the first id;
    `ids` lists every id that the row stands for.
    """
    splits, columns = set(splits), ["id", "text", "family", "kind"]
    rows: dict[str, list] = {}
    for record in (*items, *graded):
        for name, text in record.documents().items() if record.split in splits else ():
            first = [name, text, record.family, name.rsplit("/", 1)[1], []]
            rows.setdefault(normalise(text), first)[-1].append(name)
    return pd.DataFrame(list(rows.values()), columns=[*columns, "ids"])
