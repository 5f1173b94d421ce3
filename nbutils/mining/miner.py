"""A whole retrieval set, mined by the settings: one process, or several as one.

Under `accelerate launch` each process embeds its share of the texts and mines for its
share of the queries. Texts are embedded in shards of a fixed size, because the rounding
of a vector depends on its batch, and a query's search depends on no other query: from
the same vectors on disk (or none) the table is the same however many processes make it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd

from nbutils.core.fields import Settings
from nbutils.core.processes import gather, place, share, wait
from nbutils.core.records import Records
from nbutils.core.retrieval import RetrievalSet, passages
from nbutils.encoder.models import device_of
from nbutils.mining import audit, candidates, exclusion, methods, teachers
from nbutils.mining.arrays import VectorSearch
from nbutils.mining.exclusion import prepare
from nbutils.mining.recipe import Recipe
from nbutils.mining.teachers import DenseTeacher, Teacher

SHARD = 4096
"""Texts embedded at once, and the most that a stop can lose: the cache has the rest."""


def mine_set(data: RetrievalSet, teacher: Teacher, settings: Settings) -> pd.DataFrame:
    """The negatives of every query by the settings' method (`mining.Mined.negatives`).

    Every process gets the whole table, in the order of the queries. Queries that run
    out of candidates are searched deeper, so a shortfall means that the corpus has no
    more. Raises LabError where the teacher cannot score the texts.
    """
    number, processes = place()
    embedded = None
    if isinstance(teacher, DenseTeacher):  # together, before anybody's own share
        texts = data.corpus["text"].tolist()
        asked = _embedded(teacher, list(data.queries.values()), queries=True)
        embedded = asked, _embedded(teacher, texts)
    rows = np.array_split(np.arange(len(data.queries)), processes)[number]
    own = None
    if len(rows):
        search = _search(data, teacher, settings, rows, embedded)
        own = _mine(search, Recipe.of(settings))
    return pd.concat(
        [part for part in gather(own) if part is not None],
        ignore_index=True,
    )


def checked(
    negatives: pd.DataFrame, data: RetrievalSet, settings: Settings
) -> pd.DataFrame:
    """The audit of what was mined: one row a check; shortfalls only inform."""
    texts = dict(zip(data.corpus["id"], data.corpus["text"], strict=True))
    return audit.check_mined(
        negatives,
        data.queries,
        texts,
        data.positives,
        wanted=settings.mining.negatives_per_query,
        limits={"shortfall": 1.0},
    )


def _embedded(
    teacher: DenseTeacher, texts: Sequence[str], *, queries: bool = False
) -> np.ndarray:
    """Vectors of all texts, in their order; each process has embedded its shards.

    They are exchanged through the teacher's cache on disk. Hosts that do not share it
    embed what they lack.
    """
    unique = {text: place for place, text in enumerate(dict.fromkeys(texts))}
    names = list(unique)
    shards = [names[start : start + SHARD] for start in range(0, len(names), SHARD)]
    if place()[1] > 1:
        for shard in share(len(shards)):
            teacher.vectors(shards[shard], queries=queries)
        wait()
    rows = np.concatenate([teacher.vectors(part, queries=queries) for part in shards])
    if len(unique) == len(texts):
        return rows
    return rows[[unique[text] for text in texts]]


def _search(data: RetrievalSet, teacher, settings: Settings, rows, embedded):
    """The search of some queries, by their places."""
    names = list(data.queries)
    names = [names[row] for row in rows]
    queries = {name: data.queries[name] for name in names}
    positives: Mapping[str, Sequence[str]] = {n: data.positives[n] for n in names}
    depth = settings.mining.candidate_depth
    if embedded is None:
        return candidates.Search(teacher, queries, data.corpus, positives, depth)
    asked, documents = embedded
    return VectorSearch(
        asked[rows],
        documents,
        queries,
        data.corpus,
        positives,
        min(depth, len(data.corpus)),
        name=teacher.name,
        device=device_of(settings),
    )


def _mine(search: candidates.Search | VectorSearch, recipe: Recipe) -> pd.DataFrame:
    def once(table):
        return methods.mine(prepare(table, search.queries, search.corpus), recipe)

    return methods.mine_until_full(search.candidates(), once, search.deepen).negatives


def mine_for_training(records: Records, settings: Settings) -> pd.DataFrame:
    """Negatives of every training query by the last teacher, as notebook 03 mines them.

    Own graded negatives are excluded; shortfalls are filled with random documents.
    """
    items = [item for item in records.items if item.split == "train"]
    graded = [example for example in records.graded if example.split == "train"]
    corpus = passages(items, graded, ["train"])
    row_of = corpus.explode("ids").set_index("ids")["id"].to_dict()
    queries = {record.id: record.query for record in (*items, *graded)}
    positives = {item.id: [row_of[f"{item.id}/P0"]] for item in items}
    positives |= {example.id: [row_of[f"{example.id}/P"]] for example in graded}
    own = {e.id: [row_of[f"{e.id}/N{n}"] for n in (1, 2, 3, 4)] for e in graded}
    teacher = [*teachers.load_teachers(settings).values()][-1]
    search = candidates.Search(
        teacher, queries, corpus, positives, settings.mining.candidate_depth
    )
    recipe = methods.Recipe.of(settings, backfill="random")

    def once(table):
        pool = exclusion.prepare(table, queries, corpus, exclude=own)
        return methods.mine(pool, recipe)

    return methods.mine_until_full(search.candidates(), once, search.deepen).negatives
