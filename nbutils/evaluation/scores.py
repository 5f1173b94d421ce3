"""Scores: mteb tasks from held-out recordings, mteb by name, paired statistics.

The local tasks are ordinary mteb tasks whose data is in the repository, so nothing is
downloaded; the scores are mteb's own.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import mteb
import numpy as np
import pandas as pd
import pytrec_eval
import torch
from datasets import disable_progress_bars
from mteb.models.model_meta import ModelMeta
from mteb.types import PromptType
from sentence_transformers import SentenceTransformer

from nbutils.core.fields import Settings
from nbutils.core.records import Records
from nbutils.core.retrieval import LocalSet, local_set
from nbutils.encoder.vectors import embed
from nbutils.evaluation.tasks import local_tasks
from nbutils.mining.teachers import BM25Teacher

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
        section = getattr(model[0], "section", None)
        self.instructed = section is not None and section.text_format != "plain"
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
        vectors = embed(self.model, new, self.settings, prompt, cache=None)
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


def development(
    records: Records, settings: Settings
) -> Callable[[SentenceTransformer], dict[str, float]]:
    """A function that scores a model on the development examples.

    Returns NDCG@10 over their documents and the share of positives above N1.
    """
    data = local_set("dev", records.graded, [])
    tasks = local_tasks(data)[:2]

    def score(model: SentenceTransformer) -> dict[str, float]:
        per_query = per_query_scores(model, settings, data, tasks)
        return per_query.drop(columns="query_id").mean().to_dict()

    return score


def per_query_scores(model, settings, data, tasks=None) -> pd.DataFrame:
    """One row a query of a held-out set: query_id, ndcg, beats_n1 (graded only)."""
    tasks = local_tasks(data)[:2] if tasks is None else tasks
    cached = CachedEncoder(model, settings, "student")
    _, runs = evaluate(cached, tasks)
    retrieval, reranking = (runs[task.metadata.name] for task in tasks)
    return pd.DataFrame(
        {
            "ndcg": ndcg_per_query(retrieval, data.qrels),
            "beats_n1": beats_n1(reranking, data),
        }
    ).rename_axis("query_id").reset_index()  # fmt: skip
