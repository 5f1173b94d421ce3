"""Held-out sets as mteb tasks."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

import mteb
from datasets import Dataset
from mteb.abstasks import AbsTaskPairClassification, AbsTaskRetrieval, AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata

from nbutils.core.errors import LabError, nearest
from nbutils.core.retrieval import RetrievalSet

NDCG = "ndcg_at_10"
INSTRUCTION = "Given a query, retrieve the text that matches it"
LADDER_SCORES = {"P": 4.0, "N1": 3.0, "N2": 2.0, "N3": 1.0, "N4": 0.0}
"""Similarity that the STS task asks for: the rank on the ladder (ours)."""


# -- tasks ---------------------------------------------------------------------------


def _metadata(name: str, kind: str, score: str, text: str, data: RetrievalSet):
    digest = hashlib.sha256(
        json.dumps([data.queries, data.documents, data.qrels]).encode()
    ).hexdigest()
    return TaskMetadata(
        name=name,
        description=text,
        type=kind,
        category="t2t",
        main_score=score,
        eval_splits=["test"],
        eval_langs=["eng-Latn"],
        dataset={"path": f"local/{name}", "revision": digest[:16]},
        prompt={"query": INSTRUCTION},
        modalities=["text"],
    )


def _rows(texts: Mapping[str, str]) -> Dataset:
    return Dataset.from_list([{"id": i, "text": t} for i, t in texts.items()])


def local_tasks(data: RetrievalSet) -> list[mteb.AbsTask]:
    """Retrieval, reranking, STS and pair classification from one held-out set."""
    title = "".join(part.capitalize() for part in data.name.split("-"))
    pairs = [
        (query, document, place)
        for query, documents in data.ladder.items()
        for document, place in zip(documents, LADDER_SCORES, strict=True)
    ]
    split = {
        "corpus": _rows(data.documents),
        "queries": _rows(data.queries),
        "relevant_docs": data.qrels,
        "top_ranked": None,
    }
    graded_only = {
        **split,
        "queries": _rows({q: data.queries[q] for q in data.ladder}),
        "relevant_docs": {q: data.qrels[q] for q in data.ladder},
        "top_ranked": data.ladder,
    }
    sts = Dataset.from_list(
        [
            {
                "sentence1": data.queries[q],
                "sentence2": data.documents[d],
                "score": LADDER_SCORES[level],
            }
            for q, d, level in pairs
        ]
    )
    labelled = Dataset.from_list(
        [
            {
                "sentence1": data.queries[q],
                "sentence2": data.documents[d],
                "labels": int(level == "P"),
            }
            for q, d, level in pairs
            if level in ("P", "N1")
        ]
    )
    made = [
        (
            AbsTaskRetrieval,
            "Retrieval",
            NDCG,
            {"default": {"test": split}},
            "Every true positive among all documents of the held-out set.",
        ),
        (
            AbsTaskRetrieval,
            "Reranking",
            "map_at_1000",
            {"default": {"test": graded_only}},
            "The positive among its own four graded negatives.",
        ),
        (
            AbsTaskSTS,
            "STS",
            "cosine_spearman",
            {"test": sts},
            "Similarity of query and text against the text's place on the ladder.",
        ),
        (
            AbsTaskPairClassification,
            "PairClassification",
            "max_ap",
            {"test": labelled},
            "The positive against the hardest negative, N1.",
        ),
    ]
    tasks = []
    for base, kind, score, dataset, text in made:
        metadata = _metadata(f"Lab{title}{kind}", kind, score, text, data)
        attributes = {
            "metadata": metadata,
            "min_score": 0,
            "max_score": 4,
            "__doc__": text,
        }
        task = type(metadata.name, (base,), attributes)()
        task.dataset = dataset
        task.data_loaded = True
        tasks.append(task)
    return tasks


def named_tasks(names: Sequence[str]) -> list[mteb.AbsTask]:
    """mteb tasks by name, their English part; LabError for an unknown name.

    LLM2Vec's subset is English; some of its tasks hold many languages.
    """
    known = {task.metadata.name for task in mteb.get_tasks()}
    for name in names:
        if name not in known:
            raise LabError(f"mteb knows no task {name!r}{nearest(name, known)}")
    english = mteb.get_tasks(
        tasks=list(names), languages=["eng"], exclusive_language_filter=True
    )
    return list(english)
