"""A whole retrieval set, mined by the settings: one process, or several as one.

Under `accelerate launch` each process embeds its share of the texts, in shards of a
fixed size, because a vector's rounding depends on its batch, and mines for its share of
the queries: the table is the same however many processes make it, but for documents
that are drawn to fill a gap.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd

from nbutils.core.errors import LabError
from nbutils.core.processes import gather, place, share, wait
from nbutils.core.records import Records
from nbutils.core.retrieval import RetrievalSet, passages
from nbutils.core.settings import Settings
from nbutils.mining.candidates import Search
from nbutils.mining.ensembles import cross_sample, intra_sample
from nbutils.mining.exclusion import prepare
from nbutils.mining.methods import mine_until_full
from nbutils.mining.rescoring import load_rescorer
from nbutils.mining.scoring import Teacher
from nbutils.mining.teachers import TextTeacher, load_teachers

SHARD = 4096
"""Texts embedded at once, and the most that a stop can lose: the cache has the rest."""


def mine_set(
    data: RetrievalSet,
    teacher: Teacher,
    settings: Settings,
    say: Callable[[str], None] = print,
) -> pd.DataFrame:
    """The negatives of every query by the settings (`methods.Mined.negatives`).

    Every process gets the whole table, in the order of the queries. A shortfall means
    that the corpus has no more. Of an approximate search, its recall is said.
    """
    if isinstance(teacher, TextTeacher):  # together, before anybody's own share
        _embed(teacher, list(data.queries.values()), queries=True)
        _embed(teacher, data.corpus["text"].tolist())
    number, processes = place()
    names = np.array_split(list(data.queries), processes)[number].tolist()
    recipe, seed = settings.mining, settings.seed
    part = None  # of a process without a query
    if names or number == 0:  # without any, `Search` says so
        own = replace(data, queries={name: data.queries[name] for name in names})
        depth, rescorer = recipe.candidate_depth, load_rescorer(settings)
        search = Search(teacher, own, depth, recipe.index, rescorer)
        found = search.candidates()
        mined = mine_until_full(prepare(found), search, recipe, seed=seed)
        recall = search.recall(found, seed=seed) if recipe.index else 1.0
        part = mined.negatives, recall
    tables, recalls = zip(*filter(None, gather(part)), strict=True)
    if recipe.index and number == 0:
        share = np.mean(recalls)
        say(f"index {recipe.index}: {share:.1%} of the exact candidates found")
    return pd.concat(tables, ignore_index=True)


def mine_by_settings(
    data: RetrievalSet, settings: Settings, say: Callable[[str], None] = print
) -> pd.DataFrame:
    """`mine_set` by the settings' last teacher, or by all of them as an ensemble.

    LabError where intra-sample, one negative of each teacher, is to give another number
    of negatives than there are teachers.
    """
    recipe, count = settings.mining, len(settings.mining.teachers)
    if recipe.ensemble == "none":  # then no other teacher is loaded
        alone = settings.changed(teachers=recipe.teachers[-1:])
        (teacher,) = load_teachers(alone).values()
        return mine_set(data, teacher, settings, say)
    if recipe.ensemble != "cross_sample" and count != recipe.negatives_per_query:
        raise LabError(
            f"{recipe.ensemble} takes one negative of each teacher, and there are "
            f"{count}: set negatives_per_query={count}"
        )
    every = load_teachers(settings)
    lists = {name: mine_set(data, one, settings, say) for name, one in every.items()}
    if recipe.ensemble == "cross_sample":
        return cross_sample(lists, k=recipe.negatives_per_query, seed=settings.seed)
    texts = data.corpus.set_index("id")["text"].to_dict()
    return intra_sample(
        lists, dedup=recipe.ensemble == "intra_sample_dedup", texts=texts
    )


def _embed(teacher: TextTeacher, texts: list[str], *, queries: bool = False) -> None:
    """Fill the teacher's cache on disk, each process its shards of different texts."""
    texts = list(dict.fromkeys(texts))
    for shard in share(-(-len(texts) // SHARD)):
        teacher.vectors(texts[shard * SHARD : (shard + 1) * SHARD], queries=queries)
    wait()


def training_set(records: Records) -> RetrievalSet:
    """The training split's queries, its passages, and what is known of both.

    A retrieval item labels its first positive and plants the others; a graded example's
    own negatives are excluded.
    """
    items = [item for item in records.items if item.split == "train"]
    graded = [example for example in records.graded if example.split == "train"]
    corpus = passages(items, graded, ["train"])
    row_of = corpus.explode("ids").set_index("ids")["id"].to_dict()
    positives = {item.id: [row_of[f"{item.id}/P0"]] for item in items}
    return RetrievalSet(
        "train",
        {record.id: record.query for record in (*items, *graded)},
        corpus,
        positives | {e.id: [row_of[f"{e.id}/P"]] for e in graded},
        {item.id: [row_of[f"{item.id}/P{n}"] for n in (1, 2)] for item in items},
        {e.id: [row_of[f"{e.id}/N{n}"] for n in (1, 2, 3, 4)] for e in graded},
    )


def mine_for_training(records: Records, settings: Settings) -> pd.DataFrame:
    """Negatives of every training query as notebook 03 mines them.

    Shortfalls are filled with random documents.
    """
    return mine_by_settings(training_set(records), settings.changed(backfill="random"))
