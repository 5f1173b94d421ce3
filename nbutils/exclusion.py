"""What can never be a negative, whatever the method: the query's own texts.

Excluding by id alone is not enough: in published sets a negative is often the text of
the positive under another id. `prepare` turns a stored candidate table into arrays,
once, with the rule that excludes each candidate; every method of `nbutils.mining` reads
them.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import CountVectorizer

from nbutils.candidates import Candidates
from nbutils.errors import LabError
from nbutils.text import normalise

RULES = (
    "kept",
    "positive_id",
    "equal_text_to_positive",
    "excluded_id",
    "equal_text_to_excluded",
    "equal_text_to_query",
    "duplicate_text",
    "near_duplicate",
    "shifted",
    "abs",
    "margin_pos",
    "perc_pos",
)
"""A candidate's fate; the first rule that holds is the one that is reported."""

CODE = {rule: code for code, rule in enumerate(RULES)}
EMPTY = 255
"""Rule code of a place that holds no candidate."""


@dataclass(frozen=True)
class Pool:
    """A candidate table as arrays: Q queries, K places a query, P positives a query.

    query_ids (Q,), document_ids (N,) and their keys (uint64, for seeded draws);
    documents (Q, K) place in document_ids, -1 where empty, by rank; scores and ranks
    (Q, K); rules (Q, K) codes of RULES; positives (Q, P), -1 where empty, and
    positive_scores (Q, P), nan where empty. texts (N,) codes of normalised texts, and
    forbidden (pairs, 2) the query places and text codes that must never meet.
    """

    teacher: str
    query_ids: np.ndarray
    document_ids: np.ndarray
    query_keys: np.ndarray
    document_keys: np.ndarray
    documents: np.ndarray
    scores: np.ndarray
    ranks: np.ndarray
    rules: np.ndarray
    positives: np.ndarray
    positive_scores: np.ndarray
    texts: np.ndarray
    forbidden: np.ndarray


def key(name: str) -> int:
    """A 64-bit key of an id, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest())


def prepare(
    candidates: Candidates,
    queries: Mapping[str, str],
    corpus: pd.DataFrame,
    *,
    exclude: Mapping[str, Sequence[str]] | None = None,
    near_duplicate: float | None = None,
) -> Pool:
    """Arrays of a candidate table with the identity rules applied.

    exclude: query id to further documents that must not be mined for it (by id and by
    text), such as its own graded negatives. near_duplicate: also exclude candidates
    whose set of words has at least this Jaccard overlap with a positive's; off by
    default, because a good hard negative may differ from the positive by one word.
    Raises LabError where the table names a query or document that is not given.
    """
    names = pd.Index(list(queries))
    documents = pd.Index(corpus["id"])
    table, labelled = candidates.table, candidates.positives
    query = _places(names, table["query_id"], "query")
    document = _places(documents, table["document_id"], "document")
    positive_query = _places(names, labelled["query_id"], "query")
    positive = _places(documents, labelled["document_id"], "document")
    exclude = {name: ids for name, ids in (exclude or {}).items() if name in queries}
    barred_query = _places(
        names, np.repeat(list(exclude), [*map(len, exclude.values())]), "query"
    )
    barred = _places(
        documents, [i for ids in exclude.values() for i in ids], "document"
    )

    order = np.lexsort((table["rank"].to_numpy(), query))
    query, document = query[order], document[order]
    texts = _text_codes(queries, corpus["text"].tolist(), document, positive, barred)
    rules = _identity_rules(
        query, document, (positive_query, positive), (barred_query, barred), texts
    )
    if near_duplicate is not None:
        near = _near(
            query,
            document,
            positive_query,
            positive,
            corpus["text"].tolist(),
            near_duplicate,
        )
        rules[(rules == 0) & near] = CODE["near_duplicate"]

    forbidden = np.r_[
        np.c_[positive_query, texts[1][positive]],
        np.c_[barred_query, texts[1][barred]],
        np.c_[np.arange(len(names)), texts[0]],
    ]
    used, document = np.unique(np.r_[document, positive], return_inverse=True)
    document, positive = np.split(document, [len(query)])
    ids = documents.to_numpy(dtype=object)[used]
    scores = table["score"].to_numpy(dtype=float)[order]
    ranks = table["rank"].to_numpy(dtype=np.int32)[order]
    shape = (query, len(names))
    first = np.argsort(positive_query, kind="stable")
    positive_scores = labelled["score"].to_numpy(dtype=float)[first]
    positive_shape = (positive_query[first], len(names))
    return Pool(
        teacher=candidates.teacher,
        query_ids=names.to_numpy(dtype=object),
        document_ids=ids,
        query_keys=np.array([key(name) for name in names], dtype=np.uint64),
        document_keys=np.array([key(name) for name in ids], dtype=np.uint64),
        documents=_grid(document, *shape, empty=-1),
        scores=_grid(scores, *shape, empty=np.nan),
        ranks=_grid(ranks, *shape, empty=0),
        rules=_grid(rules, *shape, empty=EMPTY),
        positives=_grid(positive[first], *positive_shape, empty=-1),
        positive_scores=_grid(positive_scores, *positive_shape, empty=np.nan),
        texts=texts[1][used],
        forbidden=forbidden,
    )


def _places(index: pd.Index, names, kind: str) -> np.ndarray:
    places = index.get_indexer(pd.Index(names, dtype=index.dtype))
    if len(places) and places.min() < 0:
        name = list(names)[int(places.argmin())]
        raise LabError(
            f"{kind} {name!r} is not among the {kind} texts given: the candidate table "
            "belongs to other texts, search again"
        )
    return places


def _text_codes(queries, texts, *used) -> tuple[np.ndarray, np.ndarray]:
    """Codes of the normalised texts of queries (Q,) and documents (N,), -1 unused."""
    used = np.unique(np.concatenate(used)).astype(int)
    normal = [normalise(text) for text in queries.values()]
    normal += [normalise(texts[place]) for place in used]
    codes = pd.factorize(np.array(normal, dtype=object))[0]
    documents = np.full(len(texts), -1)
    documents[used] = codes[len(queries) :]
    return codes[: len(queries)], documents


def _identity_rules(query, document, positive, barred, texts) -> np.ndarray:
    """Rule codes (rows,) of candidates sorted by query and rank."""
    query_text, document_text = texts
    wide = 1 + max(document_text.max(), query_text.max(), len(document_text))
    by_id, by_text = query * wide + document, query * wide + document_text[document]

    def holds(rows: np.ndarray, pairs, code: np.ndarray | None) -> np.ndarray:
        places = pairs[1] if code is None else code[pairs[1]]
        return np.isin(rows, pairs[0] * wide + places)

    tests = {
        "positive_id": holds(by_id, positive, None),
        "equal_text_to_positive": holds(by_text, positive, document_text),
        "excluded_id": holds(by_id, barred, None),
        "equal_text_to_excluded": holds(by_text, barred, document_text),
        "equal_text_to_query": document_text[document] == query_text[query],
        "duplicate_text": pd.Series(by_text).duplicated().to_numpy(),
    }
    rules = np.zeros(len(query), dtype=np.uint8)
    for rule in reversed(tests):
        rules[tests[rule]] = CODE[rule]
    return rules


def _near(query, document, positive_query, positive, texts, least) -> np.ndarray:
    """Whether a candidate's words overlap a positive's by Jaccard `least` or more."""
    used, code = np.unique(np.r_[document, positive], return_inverse=True)
    counter = CountVectorizer(binary=True, token_pattern=r"(?u)\b\w+\b")
    words = counter.fit_transform([texts[place] for place in used]).tocsr()
    sizes = np.asarray(words.sum(axis=1)).ravel()
    candidate, labelled = np.split(code, [len(document)])
    near = np.zeros(len(document), dtype=bool)
    pairs = pd.DataFrame({"query": positive_query, "positive": labelled})
    rows = pd.DataFrame({"query": query, "row": np.arange(len(query))})
    both = rows.merge(pairs, on="query")
    for start in range(0, len(both), 100_000):
        part = both.iloc[start : start + 100_000]
        one, other = candidate[part["row"]], part["positive"].to_numpy()
        common = np.asarray(words[one].multiply(words[other]).sum(axis=1)).ravel()
        overlap = common / np.maximum(sizes[one] + sizes[other] - common, 1)
        near[part["row"].to_numpy()[overlap >= least]] = True
    return near


def _grid(values: np.ndarray, rows: np.ndarray, count: int, *, empty) -> np.ndarray:
    """Values of sorted `rows` as (count, longest row), padded with `empty`."""
    lengths = np.bincount(rows, minlength=count)
    starts = np.cumsum(lengths) - lengths
    grid = np.full((count, max(1, lengths.max(initial=0))), empty, dtype=values.dtype)
    grid[rows, np.arange(len(rows)) - starts[rows]] = values
    return grid
