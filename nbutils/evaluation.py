"""Scores: mteb tasks from held-out recordings, mteb by name, paired statistics.

The local tasks are ordinary mteb tasks whose data is in the repository, so nothing is
downloaded; the scores are mteb's own.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import mteb
import numpy as np
import pandas as pd
import pytrec_eval
import torch
from datasets import Dataset, disable_progress_bars
from mteb.abstasks import AbsTaskPairClassification, AbsTaskRetrieval, AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata
from mteb.models.model_meta import ModelMeta
from mteb.types import PromptType
from sentence_transformers import SentenceTransformer

from nbutils import encoder
from nbutils.errors import LabError
from nbutils.records import GradedExample, RetrievalItem
from nbutils.settings import Settings, nearest
from nbutils.teachers import BM25Teacher

NDCG = "ndcg_at_10"
INSTRUCTION = "Given a query, retrieve the text that matches it"
LADDER_SCORES = {"P": 4.0, "N1": 3.0, "N2": 2.0, "N3": 1.0, "N4": 0.0}
"""Similarity that the STS task asks for: the rank on the ladder (ours)."""


@dataclass(frozen=True)
class LocalSet:
    """Held-out queries, documents and judgements of one split, ready for tasks.

    `qrels` maps a query id to {document id: 1} with *all* true positives; `ladder` maps
    a graded query's id to the ids of its documents, P then N1 to N4.
    """

    name: str
    queries: dict[str, str]
    documents: dict[str, str]
    qrels: dict[str, dict[str, int]]
    ladder: dict[str, list[str]]


def local_set(
    name: str, graded: Sequence[GradedExample], items: Sequence[RetrievalItem]
) -> LocalSet:
    """The evaluation set of split `name` (`held-out-tasks`, `held-out-family`, `dev`).

    LabError if the split is empty under these settings.
    """
    graded = [example for example in graded if example.split == name]
    items = [item for item in items if item.split == name]
    if not graded:
        raise LabError(
            f"no recorded example is in split {name!r}: check families and max_items"
        )
    documents: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    for record in [*graded, *items]:
        own = {blind(i): text for i, text in record.documents().items()}
        documents |= own
        true = list(own)[:1] if isinstance(record, GradedExample) else list(own)
        qrels[record.id] = dict.fromkeys(true, 1)
    return LocalSet(
        name,
        {record.id: record.query for record in [*graded, *items]},
        documents,
        qrels,
        {e.id: [blind(i) for i in e.documents()] for e in graded},
    )


def blind(document_id: str) -> str:
    """A document id that does not tell positives from negatives.

    trec_eval breaks ties by id; an id that ends in P would win every tie over one
    that ends in N, which flatters BM25, whose scores are often equal (zero).
    """
    return hashlib.sha256(document_id.encode()).hexdigest()[:16]


# -- tasks ---------------------------------------------------------------------------


def _metadata(name: str, kind: str, score: str, text: str, data: LocalSet):
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


def local_tasks(data: LocalSet) -> list[mteb.AbsTask]:
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


# -- models --------------------------------------------------------------------------


def _meta(name: str) -> ModelMeta:
    return ModelMeta.create_empty(overwrites={"name": f"lab/{name}", "revision": "1"})


class CachedEncoder:
    """A SentenceTransformer as mteb sees it, through `encoder.embed`.

    The four tasks of a set share most texts; each is encoded once. Instructions go on
    queries only, and only for a student whose text format has a place for them.
    """

    def __init__(self, model: SentenceTransformer, settings: Settings, name: str):
        self.model, self.settings = model, settings
        self.mteb_model_meta = _meta(name)
        self.instructed = getattr(model[0], "text_format", "plain") != "plain"
        self.known: dict[tuple[str | None, str], np.ndarray] = {}

    def encode(
        self, inputs, *, task_metadata, hf_split, hf_subset, prompt_type=None, **kwargs
    ) -> np.ndarray:
        """Unit vectors (texts, dim) of mteb's batches of texts."""
        texts = [text for batch in inputs for text in batch["text"]]
        prompt = None
        if self.instructed and prompt_type == PromptType.query:
            written = task_metadata.prompt
            prompt = written.get("query") if isinstance(written, dict) else written
        new = list({t for t in texts if (prompt, t) not in self.known})
        vectors = encoder.embed(self.model, new, self.settings, prompt, cache=None)
        self.known |= {(prompt, t): v for t, v in zip(new, vectors, strict=True)}
        return np.stack([self.known[prompt, text] for text in texts])

    def similarity(self, a, b) -> torch.Tensor:
        """Cosines (rows of a, rows of b)."""
        return torch.as_tensor(a) @ torch.as_tensor(b).T

    def similarity_pairwise(self, a, b) -> torch.Tensor:
        """Cosines of row i of a and row i of b."""
        return (torch.as_tensor(a) * torch.as_tensor(b)).sum(-1)


class BM25Search:
    """BM25 as an mteb search model: the lexical peer of every retrieval score."""

    mteb_model_meta = _meta("bm25")

    def index(self, corpus, **kwargs) -> None:
        """Index the documents."""
        self.ids = list(corpus["id"])
        self.score = BM25Teacher().scorer(list(corpus["text"]))

    def search(self, queries, *, top_k: int, top_ranked=None, **kwargs):
        """Query id to {document id: score} of the `top_k` best."""
        found = {}
        scores = self.score(list(queries["text"]))
        place = {name: i for i, name in enumerate(self.ids)}
        for query, row in zip(queries["id"], scores, strict=True):
            wanted = [place[d] for d in top_ranked[query]] if top_ranked else None
            pool = np.arange(len(row)) if wanted is None else np.array(wanted)
            best = pool[np.argsort(-row[pool], kind="stable")][:top_k]
            found[query] = {self.ids[i]: float(row[i]) for i in best}
        return found


# -- running -------------------------------------------------------------------------


def evaluate(
    model, tasks: Sequence[mteb.AbsTask]
) -> tuple[pd.DataFrame, dict[str, dict[str, dict[str, float]]]]:
    """Run mteb tasks; returns (table of task, metric, score; runs per retrieval task).

    A run maps a query id to {document id: score}, for paired statistics. `model` is
    anything mteb takes. Nothing is cached: an old score is never shown for a new model.
    """
    rows, runs = [], {}
    disable_progress_bars()
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        results = mteb.evaluate(
            model,
            list(tasks),
            cache=None,
            co2_tracker=False,
            overwrite_strategy="always",
            prediction_folder=folder,
            show_progress_bar=False,
        )
        for result, task in zip(results.task_results, tasks, strict=True):
            rows.append(
                {
                    "task": task.metadata.name,
                    "type": task.metadata.type,
                    "metric": task.metadata.main_score,
                    "score": float(result.get_score()),
                }
            )
        for path in Path(folder).rglob("*predictions.json"):
            stored = json.loads(path.read_text())
            name = path.name.removesuffix("_predictions.json")
            if "default" in stored and name.endswith(("Retrieval", "Reranking")):
                runs[name] = stored["default"].get("test", {})
    return pd.DataFrame(rows), runs


def ndcg_per_query(
    run: Mapping[str, Mapping[str, float]], qrels: Mapping[str, Mapping[str, int]]
) -> pd.Series:
    """NDCG@10 of every query, by pytrec_eval; the mean is mteb's score."""
    judge = pytrec_eval.RelevanceEvaluator(dict(qrels), {"ndcg_cut.10"})
    scores = judge.evaluate({q: dict(d) for q, d in run.items()})
    return pd.Series({q: s["ndcg_cut_10"] for q, s in scores.items()}).sort_index()


def beats_n1(run: Mapping[str, Mapping[str, float]], data: LocalSet) -> pd.Series:
    """1.0 where the positive scores above N1, by graded query, from a reranking run."""
    return pd.Series(
        {
            query: float(run[query][ids[0]] > run[query][ids[1]])
            for query, ids in data.ladder.items()
        }
    ).sort_index()
