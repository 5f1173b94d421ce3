"""Several teachers together (NV-Retriever, research question 2).

Each function takes the mined negatives of every teacher (`methods.Mined.negatives`, by
teacher, mined with at least as many a query as are wanted); a returned table has the
same columns, and `teacher` says whose choice a row is.
"""

from collections.abc import Mapping
from itertools import combinations

import numpy as np
import pandas as pd

from nbutils.core.draws import key
from nbutils.core.text import normalise


def cross_sample(
    mined: Mapping[str, pd.DataFrame], *, k: int, seed: int = 0
) -> pd.DataFrame:
    """Each query takes its k negatives from one teacher, drawn at random.

    The draw is keyed by (seed, query), among the teachers that mined anything for it,
    in the mapping's order.
    """
    every = pd.concat(mined, names=["whose", None]).reset_index("whose")
    whose = every.groupby("query_id", sort=False)["whose"].unique()
    drawn = {
        query: names[np.random.default_rng([seed, key(query)]).integers(len(names))]
        for query, names in whose.items()
    }
    chosen = every[every["whose"] == every["query_id"].map(drawn)]
    chosen = chosen.drop(columns="whose").groupby("query_id").head(k)
    return _by_query(chosen, whose.index)


def intra_sample(
    mined: Mapping[str, pd.DataFrame],
    *,
    dedup: bool = True,
    texts: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Each query takes the best negative of every teacher, in the mapping's order.

    dedup replaces a repeat by the same teacher's next one; without it a repeat stays,
    and weighs twice in the loss. texts: document id to text, so that equal texts count
    as repeats too.
    """
    taken, chosen = set(), []
    for table in mined.values():
        text = table["document_id"]
        if texts is not None:
            text = text.map(lambda name: normalise(texts[name]))
        pairs = pd.Series([*zip(table["query_id"], text, strict=True)], table.index)
        left = table[~pairs.isin(taken)] if dedup else table
        chosen.append(left.drop_duplicates("query_id"))
        taken |= {*pairs[chosen[-1].index]}
    chosen = pd.concat(chosen)
    return _by_query(chosen, chosen["query_id"].unique())


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
    return table.set_index("query_id").loc[queries].reset_index()
