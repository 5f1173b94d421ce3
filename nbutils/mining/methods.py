"""Positive-aware mining: every method of NV-Retriever over a stored candidate table.

A method is a rule about which candidates may be negatives; a selection says which of
those are taken. Rules are applied before anything is cut, so a query gets its negatives
as long as its table holds any; `mine_until_full` deepens the table where it does not.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
import pandas as pd

from nbutils.core.errors import known
from nbutils.mining.candidates import Candidates
from nbutils.mining.exclusion import CODE, EMPTY, RULES, Pool
from nbutils.mining.recipe import Recipe
from nbutils.mining.selection import lowest_rejected, random_documents, select


@dataclass(frozen=True)
class Mined:
    """What was mined, for whom it fell short, and why the rest was rejected.

    negatives: one row each, in the order of selection, with query_id, positive_id (the
    anchor; missing for `mean`), document_id, method, selection, teacher, rank, score,
    positive_score (the anchor's), ceiling, backfilled. queries: one row per query (per
    positive with anchor `each`): query_id, positive_id, positive_score, ceiling, kept,
    needed, found, wanted.
    """

    negatives: pd.DataFrame
    queries: pd.DataFrame
    rules: np.ndarray
    rows: np.ndarray
    pool: Pool

    @property
    def shortfalls(self) -> pd.DataFrame:
        """The queries that got fewer negatives than wanted, backfill not counted."""
        return self.queries[self.queries["found"] < self.queries["wanted"]]

    @property
    def shallow(self) -> pd.DataFrame:
        """The queries whose table left fewer candidates than the selection needs."""
        return self.queries[self.queries["kept"] < self.queries["needed"]]

    def explain(self, query_id: str | None = None) -> pd.DataFrame:
        """Every candidate with its rule: `kept`, or the first rule that rejected it.

        Columns query_id, positive_id, document_id, rank, score, positive_score, ceiling
        and rule; of one query, or of all.
        """
        rules, rows, pool = self.rules, self.rows, self.pool
        wanted = rules != EMPTY
        if query_id is not None:
            wanted &= (pool.query_ids[rows] == query_id)[:, None]
        row, place = np.nonzero(wanted)
        about = self.queries.iloc[row].reset_index(drop=True)
        return pd.DataFrame(
            {
                "query_id": about["query_id"],
                "positive_id": about["positive_id"],
                "document_id": pool.document_ids[pool.documents[rows[row], place]],
                "rank": pool.ranks[rows[row], place],
                "score": pool.scores[rows[row], place],
                "positive_score": about["positive_score"],
                "ceiling": about["ceiling"],
                "rule": np.array(RULES)[rules[row, place]],
            }
        )


def ceiling(method, positive_score, *, threshold=0.7, margin=0.05, perc=0.95):
    """The score that a negative must stay below (NV-Retriever, mining methods).

    positive_score: array of anchor scores; returns an array of the same shape, in the
    same unit. `perc · s(p)` would raise the ceiling of a negative score, so perc_pos is
    written with the absolute value: equal for positive scores, right for all.
    """
    positive_score = np.asarray(positive_score, dtype=float)
    ceilings = {
        "naive": np.inf,
        "shifted": np.inf,
        "abs": threshold,
        "margin_pos": positive_score - margin,
        "perc_pos": positive_score - (1 - perc) * np.abs(positive_score),
    }
    return np.broadcast_to(ceilings[method], positive_score.shape)


def mine(pool: Pool, recipe: Recipe | None = None, **changes) -> Mined:
    """Mine negatives from a prepared candidate table.

    changes: fields of Recipe by name. Nothing here depends on the order of the queries
    or on how the table was cut into blocks. Raises LabError for an unknown field.
    """
    names = tuple(field.name for field in fields(Recipe))
    for name in changes:
        known("field of a recipe", name, names)
    recipe = Recipe(**{**(vars(recipe) if recipe else {}), **changes})
    rows, anchor, anchor_score = _anchors(pool, recipe.anchor)
    ceilings = ceiling(
        recipe.method,
        anchor_score,
        threshold=recipe.threshold,
        margin=recipe.margin,
        perc=recipe.perc,
    )
    rules = _reject(pool, recipe, rows, ceilings)
    row, place = select(pool, recipe, rows, anchor, rules)
    queries = _per_query(pool, recipe, rows, anchor, anchor_score, ceilings, rules, row)
    negatives = _frame(pool, recipe, rows, queries, row, place)
    mined = Mined(negatives, queries, rules, rows, pool)
    if recipe.backfill != "none" and len(mined.shortfalls):
        return _backfilled(mined, recipe)
    return mined


def mine_until_full(
    candidates: Candidates,
    once: Callable[[Candidates], Mined],
    deepen: Callable[[Candidates, pd.DataFrame], Candidates],
) -> Mined:
    """Mine, and deepen the table of queries that ran out, until none does.

    once: mines one table. deepen: adds documents below the ceilings of some queries
    (`candidates.Search.deepen`). Ends when the corpus itself has no more. The deepened
    table serves this one recipe: above its ceiling it has gaps, so it is not returned.
    """
    mined = once(candidates)
    while len(mined.shallow):
        deeper = deepen(candidates, mined.shallow)
        if len(deeper) == len(candidates):
            break
        candidates = deeper
        mined = once(candidates)
    return mined


def _anchors(pool: Pool, anchor: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Query place, positive's place (-1: none) and anchor score of each row mined."""
    scores, rows = pool.positive_scores, np.arange(len(pool.query_ids))
    if anchor == "each":
        rows, column = np.nonzero(pool.positives >= 0)
        return rows, pool.positives[rows, column], scores[rows, column]
    if anchor == "mean":
        return rows, np.full(len(rows), -1), np.nanmean(scores, axis=1)
    worst = np.inf if anchor == "min" else -np.inf
    filled = np.where(np.isnan(scores), worst, scores)
    column = filled.argmin(axis=1) if anchor == "min" else filled.argmax(axis=1)
    return rows, pool.positives[rows, column], scores[rows, column]


def _reject(pool: Pool, recipe: Recipe, rows, ceilings) -> np.ndarray:
    rules = pool.rules[rows]
    if recipe.method == "shifted":
        breaks = pool.ranks[rows] <= recipe.shift
    elif recipe.method == "naive":
        return rules
    else:
        breaks = ~(pool.scores[rows] < ceilings[:, None])
    rules[(rules == 0) & breaks] = CODE[recipe.method]
    return rules


def _per_query(pool, recipe, rows, anchor, scores, ceilings, rules, row):
    names = np.where(anchor < 0, None, pool.document_ids[anchor])
    return pd.DataFrame(
        {
            "query_id": pd.Series(pool.query_ids[rows], dtype="str"),
            "positive_id": pd.Series(names, dtype="str"),
            "positive_score": scores,
            "ceiling": ceilings,
            "kept": (rules == 0).sum(axis=1),
            "needed": recipe.needed,
            "found": np.bincount(row, minlength=len(rows)),
            "wanted": recipe.k,
        }
    )


def _frame(pool, recipe, rows, queries, row, place, backfilled=False) -> pd.DataFrame:
    about = queries.iloc[row].reset_index(drop=True)
    query = rows[row]
    ids = pool.document_ids[pool.documents[query, place]]
    return pd.DataFrame(
        {
            "query_id": about["query_id"],
            "positive_id": about["positive_id"],
            "document_id": pd.Series(ids, dtype="str"),
            "method": recipe.method,
            "selection": recipe.selection,
            "teacher": pool.teacher,
            "rank": pool.ranks[query, place],
            "score": pool.scores[query, place],
            "positive_score": about["positive_score"],
            "ceiling": about["ceiling"],
            "backfilled": backfilled,
        }
    )


def _backfilled(mined: Mined, recipe: Recipe) -> Mined:
    """The negatives with the policy's rows, marked, after each query's own."""
    pool, rows, queries = mined.pool, mined.rows, mined.queries
    missing = (queries["wanted"] - queries["found"]).to_numpy()
    if recipe.backfill == "lowest":
        row, place = lowest_rejected(pool, recipe, rows, mined.rules, missing)
        extra = _frame(pool, recipe, rows, queries, row, place, backfilled=True)
    else:
        row, document = random_documents(pool, recipe, rows, missing)
        extra = _frame(pool, recipe, rows, queries, row, row * 0, backfilled=True)
        extra["document_id"] = pd.Series(pool.document_ids[document], dtype="str")
        extra["rank"], extra["score"] = np.int32(0), np.nan
    own = np.repeat(np.arange(len(queries)), queries["found"])
    both = pd.concat([mined.negatives, extra], ignore_index=True)
    order = np.argsort(np.r_[own, row], kind="stable")
    return replace(mined, negatives=both.iloc[order].reset_index(drop=True))
