"""Which of the candidates that are left are taken, and what fills a gap.

Draws are keyed by (seed, query, document): no order of the work can change them.
"""

from functools import cache

import numpy as np

from nbutils.core.draws import key, uniform
from nbutils.core.sections import Mining
from nbutils.core.text import normalise
from nbutils.mining.candidates import Candidates, pairs_of


def draw_keys(scores, temperature, uniform):
    """Sort keys whose k highest are k draws without replacement by softmax.

    Gumbel noise added to scores / temperature: the highest key is a draw from the
    softmax, the next one a draw from the softmax of the rest, and so on.
    """
    noise = -np.log(-np.log(uniform))
    return scores / temperature + noise


def select(found: Candidates, recipe: Mining, rules: np.ndarray, seed: int):
    """Query and place of each negative, by query and in the order of selection.

    rules (Q, K): codes of RULES.
    """
    order = np.cumsum(rules == 0, axis=1)
    query, place = np.nonzero((rules == 0) & (order <= recipe.needed))
    if recipe.selection == "top_k":
        return query, place
    named = found.named(query, found.documents[query, place])
    keys = (np.fromiter(map(key, named[n]), np.uint64, len(named)) for n in named)
    temperature = recipe.sampling_temperature
    sort = draw_keys(found.scores[query, place], temperature, uniform(seed, *keys))
    if recipe.selection == "top1_sampled":
        sort[order[query, place] == 1] = np.inf
    by = np.lexsort((-sort, query))
    query, place = query[by], place[by]
    chosen = np.arange(len(query)) - np.searchsorted(query, query)
    chosen = chosen < recipe.negatives_per_query
    return query[chosen], place[chosen]


def random_documents(found: Candidates, missing: np.ndarray, seed: int):
    """Query and document place of random documents that are not a query's candidates.

    missing (Q,): how many each lacks. Drawn from all documents that are a candidate or
    positive of any query of the table, without the query's own texts or repeats.
    """
    data, excluded = found.data, pairs_of(found.data, found.data.excluded)
    known = np.unique(np.r_[found.documents[found.documents >= 0], found.positive])
    text = cache(lambda document: normalise(data.corpus["text"].iat[document]))
    rows = []
    for query, (name, asked) in enumerate(data.queries.items()):
        if not missing[query]:
            continue
        listed = found.documents[query][found.documents[query] >= 0]
        positive = found.positive[found.positive_query == query]
        own = np.r_[listed, positive, excluded[1][excluded[0] == query]]
        barred, chosen = {normalise(asked), *map(text, own)}, {}
        draw = np.random.default_rng([seed, key(name)])
        for document in known[draw.permutation(len(known))]:
            if len(chosen) == missing[query]:
                break
            if text(document) not in barred:
                chosen.setdefault(text(document), document)
        rows += [(query, document) for document in chosen.values()]
    return np.array(rows, dtype=int).reshape(-1, 2).T
