"""Which of the candidates that are left are taken, and what fills a gap.

Draws are keyed by (seed, query, document): no order of the work can change them.
"""

from __future__ import annotations

import numpy as np

from nbutils.core.draws import key, uniform
from nbutils.core.sections import Mining
from nbutils.mining.exclusion import Pool


def draw_keys(scores, temperature, uniform):
    """Sort keys whose k highest are k draws without replacement by softmax.

    Gumbel noise added to scores / temperature: the highest key is a draw from the
    softmax, the next one a draw from the softmax of the rest, and so on.
    """
    noise = -np.log(-np.log(uniform))
    return scores / temperature + noise


def select(pool: Pool, recipe: Mining, rules: np.ndarray, seed: int):
    """Query and place of each negative, by query and in the order of selection.

    rules (Q, K): codes of RULES.
    """
    order = np.cumsum(rules == 0, axis=1)
    query, place = np.nonzero((rules == 0) & (order <= recipe.needed))
    if recipe.selection == "top_k":
        return query, place
    document = pool.candidates.documents[query, place]
    names = pool.query_ids[query], pool.document_ids[document]
    drawn = uniform(
        seed, *(np.fromiter(map(key, own), np.uint64, len(own)) for own in names)
    )
    scores = pool.candidates.scores[query, place]
    sort = draw_keys(scores, recipe.sampling_temperature, drawn)
    if recipe.selection == "top1_sampled":
        sort[order[query, place] == 1] = np.inf
    by = np.lexsort((-sort, query))
    query, place = query[by], place[by]
    chosen = np.arange(len(query)) - np.searchsorted(query, query)
    chosen = chosen < recipe.negatives_per_query
    return query[chosen], place[chosen]


def random_documents(pool: Pool, missing: np.ndarray, seed: int):
    """Query and document place of random documents that are not a query's candidates.

    missing (Q,): how many each lacks. Drawn from all documents that are anybody's
    candidates or positives, without the query's own texts or repeats.
    """
    listed, found = pool.candidates.documents, []
    known = np.unique(np.r_[listed[listed >= 0], pool.candidates.positive])
    for query in np.flatnonzero(missing > 0):
        candidates = listed[query][listed[query] >= 0]
        barred = {*pool.own[pool.own[:, 0] == query, 1], *pool.texts[candidates]}
        lacks = missing[query]
        draw = np.random.default_rng([seed, key(pool.query_ids[query])])
        for document in known[draw.permutation(len(known))]:
            if pool.texts[document] not in barred:
                barred.add(pool.texts[document])
                found.append((query, document))
                lacks -= 1
            if not lacks:
                break
    return np.array(found, dtype=int).reshape(-1, 2).T
