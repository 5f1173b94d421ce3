"""Which of the candidates that are left are taken, and what fills a gap.

Draws are keyed by (seed, query, document): order, blocks and resuming cannot change
them.
"""

from __future__ import annotations

import numpy as np

from nbutils.core.draws import mix, uniform
from nbutils.mining.exclusion import CODE, Pool
from nbutils.mining.recipe import Recipe


def draw_keys(scores, temperature, uniform):
    """Sort keys whose k highest are k draws without replacement by softmax.

    Gumbel noise added to scores / temperature: the highest key is a draw from the
    softmax, the next one a draw from the softmax of the rest, and so on.
    """
    noise = -np.log(-np.log(uniform))
    return scores / temperature + noise


def select(pool: Pool, recipe: Recipe, rows, anchor, rules):
    """Row and place of each negative, by row and in the order of selection.

    rows (R,) query places, anchor (R,) document places, rules (R, K) codes.
    """
    kept = rules == 0
    order = np.cumsum(kept, axis=1)
    row, place = np.nonzero(kept & (order <= recipe.needed))
    if recipe.selection == "top_k":
        return row, place
    query, document = rows[row], pool.documents[rows[row], place]
    keys = pool.query_keys[query]
    if recipe.anchor == "each":
        keys = mix(keys ^ pool.document_keys[anchor[row]])
    drawn = uniform(recipe.seed, keys, pool.document_keys[document])
    sort = draw_keys(pool.scores[query, place], recipe.temperature, drawn)
    if recipe.selection == "top1_sampled":
        sort[order[row, place] == 1] = np.inf
    by = np.lexsort((-sort, row))
    row, place = row[by], place[by]
    chosen = _count_within(row) < recipe.k
    return row[chosen], place[chosen]


def lowest_rejected(pool: Pool, recipe: Recipe, rows, rules, missing):
    """Row and place of the lowest scored that only the method rejected.

    missing (R,): how many each row lacks. Documents that are the query's own texts
    never come back.
    """
    row, place = np.nonzero((rules == CODE[recipe.method]) & (missing > 0)[:, None])
    by = np.lexsort((place, pool.scores[rows[row], place], row))
    row, place = row[by], place[by]
    chosen = _count_within(row) < missing[row]
    return row[chosen], place[chosen]


def random_documents(pool: Pool, recipe: Recipe, rows, missing):
    """Row and document place of random documents that are not the query's candidates.

    Drawn from all documents of the pool, without the query's own texts or repeats.
    """
    found, missing = [], missing.copy()
    for row in np.flatnonzero(missing > 0):
        query = rows[row]
        own = pool.forbidden[pool.forbidden[:, 0] == query, 1]
        listed = pool.documents[query]
        barred = {*own, *pool.texts[listed[listed >= 0]]}
        rng = np.random.default_rng([recipe.seed, int(pool.query_keys[query])])
        for document in rng.permutation(len(pool.document_ids)):
            if pool.texts[document] not in barred:
                barred.add(pool.texts[document])
                found.append((row, document))
                missing[row] -= 1
            if not missing[row]:
                break
    return np.array(found, dtype=int).reshape(-1, 2).T


def _count_within(row: np.ndarray) -> np.ndarray:
    """0, 1, 2, … within each run of equal values of a sorted array."""
    starts = np.flatnonzero(np.r_[True, row[1:] != row[:-1]]) if len(row) else row
    lengths = np.diff(np.r_[starts, len(row)])
    return np.arange(len(row)) - np.repeat(starts, lengths)
