"""Small retrieval sets and teachers for the tests of mining."""

import numpy as np
import pandas as pd

from nbutils.core.retrieval import RetrievalSet
from nbutils.mining.candidates import Candidates, Search
from nbutils.mining.exclusion import prepare
from nbutils.mining.scoring import RowScores, digest
from nbutils.mining.teachers import VectorTeacher

CORPUS = pd.DataFrame(
    {
        "id": ["bread", "steel", "tides", "starter", "moon"],
        "text": [
            "Sourdough bread rises slowly because wild yeast works slowly.",
            "Steel is annealed to make it softer.",
            "Tides follow the pull of the moon.",
            "A sourdough starter is flour and water with wild yeast.",
            "The moon has no bread.",
        ],
    }
)


def world(rows, labelled, *, queries=None, texts=None, excluded=None):
    """Candidates of {query: {document: score}}, with the scores of the positives."""
    table = []
    for query, scores in rows.items():
        ordered = sorted(scores.items(), key=lambda pair: -pair[1])
        table += [(query, name, s, n) for n, (name, s) in enumerate(ordered, 1)]
    names = ["query_id", "document_id", "score", "rank"]
    table = pd.DataFrame(table, columns=names)
    positives = [(q, d, s, 0) for q, own in labelled.items() for d, s in own.items()]
    documents = {d for scores in (*rows.values(), *labelled.values()) for d in scores}
    texts = {name: f"text of {name}" for name in sorted(documents)} | (texts or {})
    data = RetrievalSet(
        "toy",
        queries or {query: f"ask {query}" for query in rows},
        pd.DataFrame({"id": list(texts), "text": list(texts.values())}),
        {query: list(own) for query, own in labelled.items()},
        excluded=excluded or {},
    )
    positives = pd.DataFrame(positives, columns=names)
    return Candidates.of_frames(data, "toy", table, positives)


def pool_of(rows, labelled, **more):
    return prepare(world(rows, labelled, **more))


class Given:
    """A teacher whose scores are given: query text to one score a document."""

    name = "given"

    def __init__(self, scores):
        self.given, self.calls = scores, []
        self.fingerprint = digest({k: list(map(float, v)) for k, v in scores.items()})

    def scores(self, data):
        def rows(queries):
            self.calls.append(len(queries))
            return np.array([self.given[query] for query in queries], np.float32)

        return RowScores(rows, data)


def grid(count, size, seed=0, levels=None):
    """A teacher of random scores (in few levels: many ties) and its set."""
    scores = np.random.default_rng(seed).normal(size=(count, size))
    if levels:
        scores = np.round(scores * levels) / levels
    names = [f"d{n}" for n in range(size)]
    queries = {f"q{n}": f"query {n}" for n in range(count)}
    positives = {name: [f"d{n % size}"] for n, name in enumerate(queries)}
    corpus = pd.DataFrame({"id": names, "text": names})
    teacher = Given(dict(zip(queries.values(), scores, strict=True)))
    return teacher, RetrievalSet("grid", queries, corpus, positives)


def unit(rng, *shape):
    vectors = rng.standard_normal(shape, np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def given(count=60, size=400, width=16, seed=0, depth=100, several=False, index=""):
    """The search of a set by vectors that are given, each query near its positive."""
    rng = np.random.default_rng(seed)
    documents = unit(rng, size, width)
    positives = rng.integers(0, size, (count, 3 if several else 1))
    queries = documents[positives[:, 0]] + 0.7 * unit(rng, count, width)
    names = {f"q{n}": f"ask q{n}" for n in range(count)}
    ids = [f"d{n}" for n in range(size)]
    corpus = pd.DataFrame({"id": ids, "text": [f"text of {name}" for name in ids]})
    own = {f"q{n}": [f"d{p}" for p in {*row}] for n, row in enumerate(positives)}
    teacher = VectorTeacher(
        {"queries": names, "corpus": ids}, {"queries": queries, "corpus": documents}
    )
    return Search(teacher, RetrievalSet("given", names, corpus, own), depth, index)
