"""Several teachers together (NV-Retriever, research question 2).

Each function takes the mined negatives of every teacher (`methods.Mined.negatives`, by
teacher, mined with at least as many a query as are wanted); a returned table has the
same columns, and `teacher` says whose choice a row is.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd

from nbutils.core.draws import key
from nbutils.core.text import normalise


def cross_sample(
    mined: Mapping[str, pd.DataFrame], *, seed: int = 0, k: int | None = None
) -> pd.DataFrame:
    """Each query takes all its negatives from one teacher, drawn at random.

    The draw is keyed by (seed, query), among the teachers that mined anything for it,
    in the mapping's order. k: at most so many a query.
    """
    found = pd.concat(mined, names=["whose", None]).reset_index("whose")
    whose = found.groupby("query_id", sort=False)["whose"].unique()
    drawn = {
        query: names[np.random.default_rng([seed, key(query)]).integers(len(names))]
        for query, names in whose.items()
    }
    found = found[found["whose"] == found["query_id"].map(drawn)]
    found = found.drop(columns="whose")
    if k is not None:
        found = found[found.groupby("query_id").cumcount() < k]
    return _by_query(found, whose.index)


def intra_sample(
    mined: Mapping[str, pd.DataFrame],
    *,
    dedup: bool = True,
    texts: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Each query takes the best negative of every teacher, in the mapping's order.

    dedup replaces a repeat by the same teacher's next one (mine at least as many a
    teacher as there are teachers); without it a repeat stays, and weighs twice in the
    loss. texts: document id to text, so that equal texts count as repeats too.
    """
    every = pd.concat(mined.values(), ignore_index=True)
    names, taken, chosen = every["document_id"], set(), []
    if texts is not None:
        names = names.map({name: normalise(texts[name]) for name in names.unique()})
    whose = np.repeat(np.arange(len(mined)), [len(table) for table in mined.values()])
    served = set()
    for row, (query, name) in enumerate(zip(every["query_id"], names, strict=True)):
        turn = query, whose[row]
        if turn not in served and not (dedup and (query, name) in taken):
            served.add(turn)
            taken.add((query, name))
            chosen.append(row)
    return _by_query(every.iloc[chosen], every["query_id"].unique())


def jaccard(mined: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Jaccard overlap of the sets that each pair of teachers chose for a query, 0 to 1.

    One row per query and pair: query_id, one, other, jaccard; average as you need.
    """
    sets = {
        name: table.groupby("query_id")["document_id"].agg(set)
        for name, table in mined.items()
    }
    rows = []
    for one, other in combinations(sets, 2):
        for query in sets[one].index.union(sets[other].index, sort=False):
            a, b = sets[one].get(query, set()), sets[other].get(query, set())
            rows.append((query, one, other, len(a & b) / len(a | b)))
    return pd.DataFrame(rows, columns=["query_id", "one", "other", "jaccard"])


def _by_query(table: pd.DataFrame, queries) -> pd.DataFrame:
    """Rows by query in the given order, each query's own order kept."""
    order = pd.Index(queries).get_indexer(table["query_id"])
    return table.iloc[np.argsort(order, kind="stable")].reset_index(drop=True)
