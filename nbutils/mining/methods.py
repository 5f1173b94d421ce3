"""Positive-aware mining: every method of NV-Retriever over a stored candidate table.

A method is a rule about which candidates may be negatives; a selection says which of
those are taken. Rules come before any cut, so a query gets its negatives as long as its
table holds any; `mine_until_full` deepens the table where it does not.
"""

from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
import pandas as pd

from nbutils.core.sections import Mining
from nbutils.core.settings import changed
from nbutils.mining.candidates import Candidates, Search
from nbutils.mining.exclusion import CODE, EMPTY, RULES, Pool, prepare
from nbutils.mining.selection import random_documents, select

METHODS, SELECTIONS = (
    get_args(Mining.model_fields[name].annotation)
    for name in ("mining_method", "selection")
)


@dataclass(frozen=True)
class Mined:
    """What was mined, for whom it fell short, and why the rest was rejected.

    negatives: one row each, in the order of selection, with query_id, positive_id (the
    anchor), document_id, method, selection, teacher, rank, score, positive_score (the
    anchor's), ceiling, backfilled. queries: one row each, with query_id, positive_id,
    positive_score, ceiling, kept, needed, found (without backfill), wanted. rules
    (Q, K): codes of RULES.
    """

    negatives: pd.DataFrame
    queries: pd.DataFrame
    rules: np.ndarray
    pool: Pool

    @property
    def shortfalls(self) -> pd.DataFrame:
        """The queries that got fewer negatives than wanted."""
        return self.queries[self.queries["found"] < self.queries["wanted"]]

    def explain(self) -> pd.DataFrame:
        """Every candidate with its rule: `kept`, or the first rule that rejected it."""
        at, found = np.nonzero(self.rules != EMPTY), self.pool.candidates
        return _rows(found, self.queries, *at).assign(
            rule=np.array(RULES)[self.rules[at]]
        )


def ceiling(method, positive_score, *, abs_threshold=0.7, margin=0.05, perc=0.95):
    """The score that a negative must stay below (NV-Retriever, mining methods).

    positive_score: array of anchor scores; returns an array of the same shape, in the
    same unit. `perc · s(p)` would raise the ceiling of a negative score, so perc_pos is
    written with the absolute value: equal for positive scores, right for all.
    """
    positive_score = np.asarray(positive_score, dtype=float)
    ceilings = {
        "naive": np.inf,
        "shifted": np.inf,
        "abs": abs_threshold,
        "margin_pos": positive_score - margin,
        "perc_pos": positive_score - (1 - perc) * np.abs(positive_score),
    }
    return np.broadcast_to(ceilings[method], positive_score.shape)


def mine(
    pool: Pool, recipe: Mining | None = None, *, seed: int = 0, **changes: Any
) -> Mined:
    """Mine negatives from a prepared candidate table.

    recipe: the settings' section `mining`; changes: of its settings, by name. Nothing
    depends on the order of the queries. `shifted` drops the first `shift` ranks of the
    corpus, labelled positives counted, as the paper shifts the retrieved list;
    sentence-transformers' `range_min` counts ranks without the positives. LabError for
    an unknown name or an impossible value.
    """
    recipe = changed(recipe or Mining(), **changes)
    found, method = pool.candidates, recipe.mining_method
    # each query's lowest or highest positive is its anchor
    scores = pd.Series(found.positive_score.astype(float))
    anchor = scores.groupby(found.positive_query).agg(f"idx{recipe.anchor}").to_numpy()
    anchor_score = scores[anchor].to_numpy()
    limits = recipe.model_dump(include={"abs_threshold", "margin", "perc"})
    ceilings = ceiling(method, anchor_score, **limits)
    breaks = {} if method == "naive" else {method: ~(found.scores < ceilings[:, None])}
    if method == "shifted":
        breaks = {method: found.ranks <= recipe.shift}
    if recipe.max_score is not None:
        breaks["max_score"] = found.scores >= recipe.max_score
        ceilings = np.minimum(ceilings, recipe.max_score)
    if recipe.min_score is not None:
        breaks["min_score"] = found.scores < recipe.min_score
    rules = pool.rules.copy()
    for rule, broken in breaks.items():
        rules[(rules == CODE["kept"]) & broken] = CODE[rule]
    query, place = select(found, recipe, rules, seed)
    queries = found.named(found.positive_query[anchor], found.positive[anchor])
    queries = queries.rename(columns={"document_id": "positive_id"}).assign(
        positive_score=anchor_score,
        ceiling=ceilings,
        kept=(rules == CODE["kept"]).sum(axis=1),
        needed=recipe.needed,
        found=np.bincount(query, minlength=len(rules)),
        wanted=recipe.negatives_per_query,
    )
    negatives = _rows(found, queries, query, place).assign(backfilled=False)
    if recipe.backfill == "random":
        missing = (queries["wanted"] - queries["found"]).to_numpy()
        more, document = random_documents(found, missing, seed)
        extra = _rows(found, queries, more, 0 * more).assign(
            document_id=found.named(more, document)["document_id"],
            rank=np.int32(0),
            score=np.nan,
            backfilled=True,
        )
        by_query = np.argsort(np.r_[query, more], kind="stable")
        negatives = pd.concat([negatives, extra]).iloc[by_query].reset_index(drop=True)
    negatives.insert(3, "method", method)
    negatives.insert(4, "selection", recipe.selection)
    negatives.insert(5, "teacher", found.teacher)
    return Mined(negatives, queries, rules, pool)


def mine_until_full(
    pool: Pool, search: Search, recipe: Mining | None = None, **options: Any
) -> Mined:
    """Mine, and deepen the table of queries that ran out, until none does.

    pool: prepared from the search's candidates; options: of `mine`. Ends when the
    corpus itself has no more, or none above `min_score`. The deepened table serves this
    one recipe: above its ceiling it has gaps.
    """
    mined = mine(pool, recipe, **options)
    while True:
        lowest = (mined.rules == CODE["min_score"]).any(axis=1)  # all else is lower
        ran_out = (mined.queries["kept"] < mined.queries["needed"]) & ~lowest
        if not ran_out.any():
            return mined
        deeper = search.deepen(mined.pool.candidates, mined.queries[ran_out])
        if len(deeper) == len(mined.pool.candidates):
            return mined
        mined = mine(prepare(deeper), recipe, **options)


def _rows(found: Candidates, queries: pd.DataFrame, query, place) -> pd.DataFrame:
    """Some candidates, by places of the table, beside what is known of their query."""
    about = queries[["positive_id", "positive_score", "ceiling"]].iloc[query]
    rows = found.named(query, found.documents[query, place])
    rows.insert(1, "positive_id", about["positive_id"].array)
    return rows.assign(
        rank=found.ranks[query, place],
        score=found.scores[query, place].astype(float),
        positive_score=about["positive_score"].array,
        ceiling=about["ceiling"].array,
    )
