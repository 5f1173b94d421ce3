"""What is scored: held-out sets as mteb tasks, and mteb's own tasks by name."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence

import mteb
from datasets import Dataset
from mteb.abstasks import AbsTaskPairClassification, AbsTaskRetrieval, AbsTaskSTS
from mteb.abstasks.task_metadata import TaskMetadata

from nbutils.core.errors import LabError, nearest
from nbutils.core.retrieval import RetrievalSet

INSTRUCTION = "Given a query, retrieve the text that matches it"


def judgements(data: RetrievalSet) -> dict[str, dict[str, int]]:
    """{query: {document: grade}} of all right answers, labelled and planted."""
    return {
        query: dict.fromkeys([*labelled, *data.planted.get(query, ())], 1)
        | data.grades.get(query, {})
        for query, labelled in data.positives.items()
    }


class LocalTask:
    """An mteb task whose data is a retrieval set in memory, not a download.

    `ladder`: graded query id to the ids of its documents, P then N1 to N4.
    """

    kind: str
    main_score: str

    def __init__(self, data: RetrievalSet, ladder: Mapping[str, Sequence[str]]):
        self.queries, self.judged = data.queries, judgements(data)
        self.texts = dict(zip(data.corpus["id"], data.corpus["text"], strict=True))
        self.ladder = {q: list(ladder[q]) for q in data.queries if q in ladder}
        whole = json.dumps([self.queries, self.judged, self.texts, self.ladder])
        self.metadata = TaskMetadata(
            name=f"{data.name} {self.kind}",
            description=self.__doc__,
            type=self.kind,
            category="t2t",
            main_score=self.main_score,
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            dataset={
                "path": f"local/{data.name}",
                "revision": hashlib.sha256(whole.encode()).hexdigest()[:16],
            },
            prompt={"query": INSTRUCTION},
            modalities=["text"],
        )
        super().__init__()

    def load_data(self, *args, **kwargs) -> None:
        """Make mteb's data set of the one in memory."""
        self.dataset, self.data_loaded = self.made(), True

    def unload_data(self) -> None:
        """Let go of mteb's data set; the metadata stays, as does what it is made of."""
        self.dataset, self.data_loaded = None, False

    def retrieval(self, queries: Iterable[str], top_ranked=None) -> dict:
        """mteb's form of a retrieval set, for some of the queries."""
        split = {
            "corpus": _rows(self.texts),
            "queries": _rows({query: self.queries[query] for query in queries}),
            "relevant_docs": {query: self.judged[query] for query in queries},
            "top_ranked": top_ranked,
        }
        return {"default": {"test": split}}

    def pairs(self, column: str, values: Sequence[float]) -> dict:
        """Graded queries, their first documents, and each place's value in `column`."""
        rows = [
            {"sentence1": self.queries[q], "sentence2": self.texts[d], column: value}
            for q, documents in self.ladder.items()
            for d, value in zip(documents, values, strict=False)
        ]
        return {"test": Dataset.from_list(rows)}


def _rows(texts: Mapping[str, str]) -> Dataset:
    return Dataset.from_dict({"id": list(texts), "text": list(texts.values())})


class LocalRetrieval(LocalTask, AbsTaskRetrieval):
    """Every true positive among all documents of the held-out set."""

    kind, main_score = "Retrieval", "ndcg_at_10"

    def made(self) -> dict:
        return self.retrieval(self.queries)


class LocalReranking(LocalTask, AbsTaskRetrieval):
    """The positive among its own four graded negatives."""

    kind, main_score = "Reranking", "map_at_1000"

    def made(self) -> dict:
        return self.retrieval(self.ladder, top_ranked=self.ladder)


class LocalSTS(LocalTask, AbsTaskSTS):
    """Similarity of query and text against the text's rank on the ladder (ours)."""

    kind, main_score = "STS", "cosine_spearman"
    max_score = 4

    def made(self) -> dict:
        return self.pairs("score", [4.0, 3.0, 2.0, 1.0, 0.0])


class LocalPairs(LocalTask, AbsTaskPairClassification):
    """The positive against the hardest negative, N1."""

    kind, main_score = "PairClassification", "max_ap"

    def made(self) -> dict:
        return self.pairs("labels", [1, 0])


def local_tasks(
    data: RetrievalSet, ladder: Mapping[str, Sequence[str]]
) -> list[mteb.AbsTask]:
    """Retrieval, reranking, STS and pair classification from one held-out set."""
    kinds = LocalRetrieval, LocalReranking, LocalSTS, LocalPairs
    return [kind(data, ladder) for kind in kinds]


def named_tasks(names: Sequence[str]) -> list[mteb.AbsTask]:
    """mteb tasks by name, their English part; LabError for an unknown name."""
    english = {"languages": ["eng"], "exclusive_language_filter": True}
    found: list[mteb.AbsTask] = []
    for name in names:
        if name == "local":
            raise LabError("the task local stands alone: tasks=[local], or others")
        try:
            found += mteb.get_tasks(tasks=[name], **english)
        except KeyError:
            near = nearest(name, [task.metadata.name for task in mteb.get_tasks()])
            raise LabError(f"mteb knows no task {name!r}{near}") from None
    return found
