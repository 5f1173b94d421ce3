"""What can never be a negative, whatever the method: the query's own texts.

Excluding by id alone is not enough: in published sets a negative is often the text of
the positive under another id. `prepare` turns a stored candidate table into arrays,
once, with the rule that excludes each candidate; every method of `nbutils.mining` reads
them.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import CountVectorizer

from nbutils.core.draws import key
from nbutils.core.text import normalise
from nbutils.mining.arrays import Found
from nbutils.mining.candidates import Candidates, Located, places

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

    query_ids (Q,), document_ids (N,); documents (Q, K) place in document_ids, -1 where
    empty, by rank; scores and ranks (Q, K); rules (Q, K) codes of RULES; positives
    (Q, P), -1 where empty, and positive_scores (Q, P), nan where empty. texts (N,)
    codes of normalised texts, and forbidden (pairs, 2) the query places and text codes
    that must never meet.
    """

    teacher: str
    query_ids: np.ndarray
    document_ids: np.ndarray
    documents: np.ndarray
    scores: np.ndarray
    ranks: np.ndarray
    rules: np.ndarray
    positives: np.ndarray
    positive_scores: np.ndarray
    texts: np.ndarray
    forbidden: np.ndarray

    @cached_property
    def query_keys(self) -> np.ndarray:
        """Keys of the query ids, uint64 (Q,), for seeded draws."""
        return np.array([key(name) for name in self.query_ids], dtype=np.uint64)

    @cached_property
    def document_keys(self) -> np.ndarray:
        """Keys of the document ids, uint64 (N,), for seeded draws."""
        return np.array([key(name) for name in self.document_ids], dtype=np.uint64)


def prepare(
    candidates: Candidates | Found,
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
    names, documents = pd.Index(list(queries)), pd.Index(corpus["id"])
    found = candidates.located(names, documents)
    barred_query, barred = _barred(exclude or {}, names, documents)
    texts = _text_codes(queries, corpus["text"], found.document, found.positive, barred)
    rules = _identity_rules(found, (barred_query, barred), texts)
    if near_duplicate is not None:
        near = _near(found, corpus["text"].tolist(), near_duplicate)
        rules[(rules == 0) & near] = CODE["near_duplicate"]
    forbidden = np.r_[
        np.c_[found.positive_query, texts[1][found.positive]],
        np.c_[barred_query, texts[1][barred]],
        np.c_[np.arange(len(names)), texts[0]],
    ]
    used, renumbered = _renumber(found.document, found.positive, len(documents))
    shape = (found.query, len(names))
    labelled = (found.positive_query, len(names))
    return Pool(
        teacher=candidates.teacher,
        query_ids=names.to_numpy(dtype=object),
        document_ids=documents.to_numpy(dtype=object)[used],
        documents=_grid(renumbered[found.document], *shape, empty=-1),
        scores=_grid(found.score, *shape, empty=np.nan),
        ranks=_grid(found.rank, *shape, empty=0),
        rules=_grid(rules, *shape, empty=EMPTY),
        positives=_grid(renumbered[found.positive], *labelled, empty=-1),
        positive_scores=_grid(found.positive_score, *labelled, empty=np.nan),
        texts=texts[1][used],
        forbidden=forbidden,
    )


def _barred(exclude, names: pd.Index, documents: pd.Index):
    """Query and document places of what `exclude` names, for the queries at hand."""
    known = set(names)
    pairs = [(q, d) for q, ids in exclude.items() if q in known for d in ids]
    query, document = zip(*pairs, strict=True) if pairs else ((), ())
    return places(names, query, "query"), places(documents, document, "document")


def _renumber(document, positive, count: int) -> tuple[np.ndarray, np.ndarray]:
    """The documents that occur, and the number of each among them."""
    occurs = np.zeros(count, dtype=bool)
    occurs[document] = True
    occurs[positive] = True
    return np.flatnonzero(occurs), np.cumsum(occurs, dtype=np.int32) - 1


def _text_codes(queries, texts: pd.Series, *used) -> tuple[np.ndarray, np.ndarray]:
    """Codes of the normalised texts of queries (Q,) and documents (N,), -1 unused.

    Texts are told apart by 64-bit keys, so that no second copy of them is kept.
    """
    occurs = np.zeros(len(texts), dtype=bool)
    for document in used:
        occurs[document] = True
    used = np.flatnonzero(occurs)
    named = itertools.chain(queries.values(), texts.iloc[used])
    keys = (key(normalise(text)) for text in named)
    codes = pd.factorize(np.fromiter(keys, np.uint64, len(queries) + len(used)))[0]
    documents = np.full(len(texts), -1)
    documents[used] = codes[len(queries) :]
    return codes[: len(queries)], documents


def _identity_rules(found: Located, barred, texts) -> np.ndarray:
    """Rule codes of the candidates."""
    query_text, document_text = texts
    query, document = found.query, found.document
    positive = (found.positive_query, found.positive)
    text = document_text[document]
    wide = 1 + max(document_text.max(), query_text.max(), len(document_text))
    copies = np.bincount(document_text[document_text >= 0])
    shared = np.flatnonzero(copies[text] > 1)  # only these can equal another document

    def holds(pairs, *, by_text: bool) -> np.ndarray:
        if not by_text:
            return _among(query * wide + document, pairs[0] * wide + pairs[1])
        found = np.zeros(len(query), dtype=bool)
        own = pairs[0] * wide + document_text[pairs[1]]
        found[shared] = _among((query * wide + text)[shared], own)
        return found

    repeated = np.zeros(len(query), dtype=bool)
    repeated[shared] = pd.Series((query * wide + text)[shared]).duplicated()

    tests = {
        "positive_id": holds(positive, by_text=False),
        "equal_text_to_positive": holds(positive, by_text=True),
        "excluded_id": holds(barred, by_text=False),
        "equal_text_to_excluded": holds(barred, by_text=True),
        "equal_text_to_query": text == query_text[query],
        "duplicate_text": repeated,
    }
    rules = np.zeros(len(query), dtype=np.uint8)
    for rule in reversed(tests):
        rules[tests[rule]] = CODE[rule]
    return rules


def _among(wanted: np.ndarray, listed: np.ndarray) -> np.ndarray:
    """Whether each wanted number is a listed one; both are many, and `isin` is slow."""
    if not len(listed):
        return np.zeros(len(wanted), dtype=bool)
    listed = np.unique(listed)
    at = np.searchsorted(listed, wanted)
    return listed[np.minimum(at, len(listed) - 1)] == wanted


def _near(found: Located, texts, least) -> np.ndarray:
    """Whether a candidate's words overlap a positive's by Jaccard `least` or more."""
    occur = np.r_[found.document, found.positive]
    used, code = np.unique(occur, return_inverse=True)
    counter = CountVectorizer(binary=True, token_pattern=r"(?u)\b\w+\b")
    words = counter.fit_transform([texts[place] for place in used]).tocsr()
    sizes = np.asarray(words.sum(axis=1)).ravel()
    candidate, labelled = np.split(code, [len(found.document)])
    near = np.zeros(len(candidate), dtype=bool)
    pairs = pd.DataFrame({"query": found.positive_query, "positive": labelled})
    rows = pd.DataFrame({"query": found.query, "row": np.arange(len(candidate))})
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
