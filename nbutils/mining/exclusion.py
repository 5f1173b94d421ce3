"""What can never be a negative, whatever the method: the query's own texts.

Excluding by id alone is not enough: in published sets a negative is often the text of
the positive under another id. `prepare` says once, for a candidate table, which rule
excludes each candidate; every method of `methods` reads that.
"""

from dataclasses import dataclass
from itertools import chain
from typing import get_args

import numpy as np
import pandas as pd

from nbutils.core.draws import key
from nbutils.core.sections import Mining
from nbutils.core.text import normalise
from nbutils.mining.candidates import Candidates, pairs_of

RULES = (
    "kept", "positive_id", "equal_text_to_positive", "excluded_id",
    "equal_text_to_excluded", "equal_text_to_query", "duplicate_text",
    *get_args(Mining.model_fields["mining_method"].annotation), "max_score",
    "min_score",
)  # fmt: skip
"""A candidate's fate; the first rule that holds is the one that is reported."""

CODE = {rule: code for code, rule in enumerate(RULES)}
EMPTY = 255
"""Rule code of a place that holds no candidate."""


@dataclass(frozen=True)
class Pool:
    """A candidate table, and its identity rules: rules (Q, K), codes of RULES."""

    candidates: Candidates
    rules: np.ndarray


def prepare(candidates: Candidates) -> Pool:
    """The rule that excludes each candidate, by id and by text.

    The set's `excluded` are further documents that must not be mined for a query, such
    as its own graded negatives. LabError where one is not in the corpus.
    """
    data, found = candidates.data, candidates
    query, place = np.nonzero(found.documents >= 0)
    document = found.documents[query, place]
    positive = found.positive_query, found.positive
    excluded = pairs_of(data, data.excluded)
    # texts are told apart by 64-bit keys: no second copy of them is kept
    used = np.unique(np.r_[document, positive[1], excluded[1]])
    every = chain(data.queries.values(), data.corpus["text"].take(used))
    keys = (key(normalise(text)) for text in every)
    codes = pd.factorize(np.fromiter(keys, np.uint64, len(data.queries) + len(used)))[0]
    asked, texts = codes[: len(data.queries)], np.full(len(data.corpus), -1)
    texts[used] = codes[len(data.queries) :]
    ids, count = np.arange(len(texts)), len(codes) + len(texts)

    def pairs(query, codes) -> pd.Series:
        """One number for each query and code."""
        return pd.Series(query * count + codes)

    def meets(own, codes) -> pd.Series:
        """Whether a candidate has the code of one of its query's own documents."""
        return pairs(query, codes[document]).isin(pairs(own[0], codes[own[1]]))

    shared = np.bincount(texts[used])[texts[document]] > 1  # others are unique
    repeats = np.zeros(len(document), dtype=bool)
    repeats[shared] = pairs(query[shared], texts[document[shared]]).duplicated()
    tests = {
        "positive_id": meets(positive, ids),
        "equal_text_to_positive": meets(positive, texts),
        "excluded_id": meets(excluded, ids),
        "equal_text_to_excluded": meets(excluded, texts),
        "equal_text_to_query": texts[document] == asked[query],
        "duplicate_text": repeats,
    }
    rules = np.full(found.documents.shape, EMPTY, dtype=np.uint8)
    rules[query, place] = CODE["kept"]
    for rule, holds in reversed(tests.items()):
        rules[query[holds], place[holds]] = CODE[rule]
    return Pool(candidates, rules)
