"""Scores: models as mteb sees them, mteb's own scores, and what each query got."""

import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory

import mteb
import numpy as np
import pandas as pd
import pytrec_eval
from datasets import disable_progress_bars
from mteb.models.abs_encoder import AbsEncoder
from mteb.models.model_meta import ModelMeta
from mteb.types import PromptType
from sentence_transformers import SentenceTransformer

from nbutils.core.errors import LabError
from nbutils.core.records import RUNGS, Records
from nbutils.core.retrieval import HELD_OUT, RetrievalSet, ladder_ids, local_set
from nbutils.core.settings import Settings
from nbutils.encoder.student import unpack_student
from nbutils.encoder.vectors import embed, fingerprint
from nbutils.evaluation.tasks import judgements, local_tasks
from nbutils.mining.teachers import BM25Teacher, query_prompt

Run = Mapping[str, Mapping[str, float]]
"""What a search found: query id to {document id: score}."""


def model_meta(name: str, revision: str) -> ModelMeta:
    """A model's name and revision, by which mteb keeps scores."""
    return ModelMeta.create_empty({"name": f"lab/{name}", "revision": revision})


class CachedEncoder(AbsEncoder):
    """A SentenceTransformer as mteb sees it, through `encoder.embed`.

    The four tasks of a set share most texts; each is encoded once. Instructions go on
    queries only, and only where the text format has a place for them. Its revision is
    the model's fingerprint, so that no other student's score is taken for its own.
    """

    def __init__(self, model: SentenceTransformer, settings: Settings, name: str):
        self.section = getattr(model[0], "section", None)  # None: not of this lab
        # other people's encoders are scored again and again: their vectors are kept
        self.cache = "default" if self.section is None else None
        self.mteb_model_meta = model_meta(name, fingerprint(model))
        packed = model.device.type == "cpu"
        self.model = unpack_student(model) if packed else model  # half of the time
        self.settings = settings
        self.known: dict[tuple[str | None, str], np.ndarray] = {}

    def encode(self, inputs, *, task_metadata, prompt_type=None, **kwargs):
        """Unit vectors (texts, dim) of mteb's batches of texts."""
        texts = [text for batch in inputs for text in batch["text"]]
        prompt, role = None, ""
        if self.section is None and prompt_type:  # with a prompt or route of its own
            role = PromptType(prompt_type).value
            prompt = query_prompt(self.model) if role == "query" else None
        elif prompt_type == PromptType.query and self.section.text_format != "plain":
            written = task_metadata.prompt
            prompt = written.get("query") if isinstance(written, dict) else written
        said = prompt or role
        new = [t for t in dict.fromkeys(texts) if (said, t) not in self.known]
        vectors = embed(
            self.model, new, self.settings, prompt, role=role, cache=self.cache
        )
        self.known |= {(said, t): v for t, v in zip(new, vectors, strict=True)}
        return np.stack([self.known[said, text] for text in texts])


class BM25Search:
    """BM25 as an mteb search model: the lexical peer of every retrieval score."""

    mteb_model_meta = model_meta("bm25", "1")

    def index(self, corpus, **kwargs) -> None:
        """Index the documents."""
        self.ids = list(corpus["id"])
        self.score = BM25Teacher().scorer(list(corpus["text"]))

    def search(self, queries, *, top_k: int, top_ranked=None, **kwargs):
        """Query id to {document id: score} of the `top_k` best."""
        found = {}
        scores = self.score(list(queries["text"]))
        for query, row in zip(queries["id"], scores, strict=True):
            row = pd.Series(row, self.ids)
            row = row[top_ranked[query]] if top_ranked else row
            best = row.sort_values(ascending=False, kind="stable")
            found[query] = best[:top_k].astype(float).to_dict()
        return found


def evaluate(
    model, tasks: Sequence[mteb.AbsTask]
) -> tuple[pd.DataFrame, dict[str, Run]]:
    """(Table of task, type, metric and score; runs by name of the retrieval task).

    `model` is anything mteb takes. mteb's own cache of scores stays unused. LabError
    where a task's data must be fetched and there is no network.
    """
    rows, runs = [], {}
    disable_progress_bars()
    with TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            results = mteb.evaluate(
                model,
                list(tasks),
                cache=None,
                co2_tracker=False,
                overwrite_strategy="always",
                prediction_folder=folder,
                show_progress_bar=False,
            )
        except ConnectionError as error:
            raise LabError(
                f"a task's data cannot be fetched ({error}): run once with a network, "
                "or set tasks=[local]"
            ) from None
        for result, task in zip(results.task_results, tasks, strict=True):
            told, score = task.metadata, float(result.get_score())
            rows.append([told.name, told.type, told.main_score, score])
            if told.type in ("Retrieval", "Reranking"):
                stored = json.loads(Path(folder, task.prediction_file_name).read_text())
                runs[told.name] = stored.get("default", {}).get("test", {})
    return pd.DataFrame(rows, columns=["task", "type", "metric", "score"]), runs


def ndcg_per_query(run: Run, data: RetrievalSet) -> pd.Series:
    """NDCG@10 of every query, by pytrec_eval; the mean is mteb's score."""
    judge = pytrec_eval.RelevanceEvaluator(judgements(data), {"ndcg_cut.10"})
    scores = judge.evaluate({query: dict(found) for query, found in run.items()})
    return pd.Series({q: s["ndcg_cut_10"] for q, s in scores.items()}).sort_index()


def rungs(run: Run, ladder: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Scores of P and N1 to N4, a row a graded query, from a reranking run."""
    found = {q: [scores[d] for d in ladder[q]] for q, scores in run.items()}
    return pd.DataFrame.from_dict(found, "index", columns=[*RUNGS]).sort_index()


def beats_n1(run: Run, ladder: Mapping[str, Sequence[str]]) -> pd.Series:
    """1.0 where the positive scores above N1, by graded query, from a reranking run."""
    found = rungs(run, ladder)
    return (found["P"] > found["N1"]).astype(float)


def set_scores(
    model: SentenceTransformer | CachedEncoder,
    settings: Settings,
    data: RetrievalSet,
    ladder: Mapping[str, Sequence[str]] | None = None,
) -> pd.DataFrame:
    """One row a query of any retrieval set: query_id, ndcg, split (the set's name).

    A `CachedEncoder` keeps the vectors that it has.
    With a `ladder` (`retrieval.ladder_ids`) also beats_n1 and the cosines of P and N1
    to N4 to their query, of the queries that it has.
    """
    if not isinstance(model, CachedEncoder):
        model = CachedEncoder(model, settings, "student")
    tasks = local_tasks(data, ladder or {})[: 2 if ladder else 1]
    _, runs = evaluate(model, tasks)
    retrieval, *reranking = (runs[task.metadata.name] for task in tasks)
    table = pd.DataFrame({"ndcg": ndcg_per_query(retrieval, data)})
    for run in reranking:
        table = table.assign(beats_n1=beats_n1(run, ladder)).join(rungs(run, ladder))
    return table.rename_axis("query_id").reset_index().assign(split=data.name)


def per_query_scores(
    model: SentenceTransformer,
    settings: Settings,
    records: Records,
    splits: Sequence[str] = HELD_OUT,
) -> pd.DataFrame:
    """`set_scores` of some splits of the records, with their ladders."""
    ladder = ladder_ids(records.graded)
    sets = (local_set(name, records) for name in splits)
    parts = [set_scores(model, settings, data, ladder) for data in sets]
    return pd.concat(parts, ignore_index=True)


def development(
    records: Records, settings: Settings
) -> Callable[[SentenceTransformer], dict[str, float]]:
    """A function that scores a model on the development examples.

    Returns NDCG@10 over their documents and the share of positives above N1.
    """

    def score(model: SentenceTransformer) -> dict[str, float]:
        found = per_query_scores(model, settings, records, ["dev"])
        return found[["ndcg", "beats_n1"]].mean().to_dict()

    return score
