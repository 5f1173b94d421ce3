"""Several teachers together (NV-Retriever, research question 2).

Each function takes the mined negatives of every teacher (tables of `mining.mine`, one
per teacher, mined with k at least the number wanted) and returns a table of the same
columns; `teacher` says whose choice a row is.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from nbutils.core.draws import key
from nbutils.core.errors import LabError
from nbutils.core.text import normalise


def cross_sample(
    mined: Mapping[str, pd.DataFrame], *, seed: int = 0, k: int | None = None
) -> pd.DataFrame:
    """Each query takes all its negatives from one teacher, drawn at random.

    The draw is keyed by (seed, query), among the teachers that mined anything for it,
    in the mapping's order. k: at most so many a query.
    """
    tables = _tables(mined)
    of_query: dict[str, list[str]] = {}
    for name, table in tables.items():
        for query in table["query_id"].unique():
            of_query.setdefault(query, []).append(name)
    drawn = {
        query: names[np.random.default_rng([seed, key(query)]).integers(len(names))]
        for query, names in of_query.items()
    }
    chosen = [
        table[table["query_id"].map(drawn) == name] for name, table in tables.items()
    ]
    found = pd.concat(chosen)
    if k is not None:
        found = found[found.groupby("query_id").cumcount() < k]
    return _ordered(found, list(of_query))


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
    tables = _tables(mined)
    queries = list(dict.fromkeys(q for t in tables.values() for q in t["query_id"]))
    taken: dict[str, set[str]] = {query: set() for query in queries}
    parts = []
    for table in tables.values():
        names = table["document_id"]
        if texts is not None:
            names = names.map({name: normalise(texts[name]) for name in names.unique()})
        rows, served = [], set()
        for row, (query, name) in enumerate(zip(table["query_id"], names, strict=True)):
            if query in served or (dedup and name in taken[query]):
                continue
            served.add(query)
            taken[query].add(name)
            rows.append(row)
        parts.append(table.iloc[rows])
    return _ordered(pd.concat(parts), queries)


def jaccard(mined: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Mean Jaccard overlap of the sets that each pair of teachers chose, 0 to 1.

    One row per query and pair: query_id, one, other, jaccard; average as you need.
    Raises LabError for fewer than two teachers.
    """
    if len(mined) < 2:
        raise LabError("an overlap needs two teachers: name two in `teachers`")
    sets = {
        name: table.groupby("query_id")["document_id"].agg(set)
        for name, table in _tables(mined).items()
    }
    names, rows = list(sets), []
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            for query in sets[one].index.union(sets[other].index, sort=False):
                a, b = sets[one].get(query, set()), sets[other].get(query, set())
                rows.append((query, one, other, len(a & b) / len(a | b)))
    return pd.DataFrame(rows, columns=["query_id", "one", "other", "jaccard"])


def _tables(mined: Mapping[str, pd.DataFrame]) -> Mapping[str, pd.DataFrame]:
    if not mined:
        raise LabError("an ensemble needs the mined negatives of at least one teacher")
    for name, table in mined.items():
        if table.duplicated(["query_id", "document_id"]).any():
            raise LabError(
                f"teacher {name!r} has a negative twice for one query: an ensemble "
                "takes one list a query (mine with anchor min, max or mean)"
            )
    return mined


def _ordered(table: pd.DataFrame, queries: list[str]) -> pd.DataFrame:
    """Rows by query in the given order, each query's own order kept."""
    places = {query: place for place, query in enumerate(queries)}
    order = np.argsort(table["query_id"].map(places).to_numpy(), kind="stable")
    return table.iloc[order].reset_index(drop=True)
