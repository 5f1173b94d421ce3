"""Teachers: who scores candidates (NV-Retriever, section on teacher models).

A teacher is a name, a fingerprint of whatever its scores depend on, and a `scorer` over
a corpus. Searching with one is `candidates`; see `nbutils.candidates` for the table.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version

import bm25s
import numpy as np
import pandas as pd

from nbutils import encoder
from nbutils.candidates import BYTES, Candidates, Scorer, Search, Teacher, digest
from nbutils.errors import LabError

QUERY_PROMPTS = ("query", "web_search_query", "retrieval.query", "s2p_query")
"""Names under which published encoders store the prompt that queries get."""


class BM25Teacher:
    """Lexical teacher: Lucene's BM25 over lower-cased words without English stop words.

    Scores are not cosines: absolute thresholds and margins made for cosines have no
    meaning for them, shares of the positive's score (`perc_pos`) do.
    """

    name = "bm25"
    floor = 0.0  # no common word: not a candidate, and its rank would be an accident

    def __init__(self, k1: float = 1.5, b: float = 0.75) -> None:
        self.k1, self.b = k1, b
        self.fingerprint = digest(self.name, version("bm25s"), k1, b, "lucene", "en")

    def scorer(self, texts: Sequence[str]) -> Scorer:
        """Index the corpus; LabError where no text has a word to search by."""
        words = self._words(texts)
        if not any(words):
            raise LabError("BM25 finds no words in the corpus: use another teacher")
        index = bm25s.BM25(method="lucene", k1=self.k1, b=self.b)
        index.index(words, show_progress=False)
        known = index.vocab_dict

        def scores(queries: Sequence[str]) -> np.ndarray:
            found = np.zeros((len(queries), len(texts)), dtype=np.float32)
            for row, query in enumerate(self._words(queries)):
                query = [word for word in query if word in known]
                if query:
                    found[row] = index.get_scores(query)
            return found

        return scores

    @staticmethod
    def _words(texts: Sequence[str]) -> list[list[str]]:
        return bm25s.tokenize(
            list(texts), stopwords="en", return_ids=False, show_progress=False
        )


class EncoderTeacher:
    """Dense teacher: the cosine of a SentenceTransformer's vectors.

    Vectors come through `encoder.embed`, which caches them by weights, prompt, length
    and text, so a changed weight is never served old vectors.
    """

    floor = None

    def __init__(self, model, settings, *, name: str, query_prompt: str | None = None):
        self.model, self.settings, self.name = model, settings, name
        self.query_prompt = query_prompt
        self.fingerprint = digest(
            encoder.fingerprint(model), query_prompt, settings.max_length
        )

    def scorer(self, texts: Sequence[str]) -> Scorer:
        """Embed the corpus; scores are one matrix product a block."""
        documents = encoder.embed(self.model, list(texts), self.settings)

        def scores(queries: Sequence[str]) -> np.ndarray:
            vectors = encoder.embed(
                self.model, list(queries), self.settings, prompt=self.query_prompt
            )
            return vectors @ documents.T

        return scores


def load_teachers(settings) -> dict[str, Teacher]:
    """Every teacher of the settings under a name of its own, in their order.

    The name is the last part of the model's; where two share it, the whole of it with
    `--` for `/`, so that neither takes the other's place or file. Raises LabError where
    an encoder cannot be found, and for one model named twice.
    """
    parts = [_parts(name) for name in settings.teachers]
    last = [part[-1] for part in parts]
    called = [p[-1] if last.count(p[-1]) == 1 else "--".join(p) for p in parts]
    twice = next((name for name in called if called.count(name) > 1), None)
    if twice is not None:
        raise LabError(f"`teachers` names {twice!r} twice: name each teacher once")
    pairs = zip(called, settings.teachers, strict=True)
    return {own: load_teacher(name, settings, own) for own, name in pairs}


def _parts(name: str) -> list[str]:
    return [part for part in name.split("/") if part not in ("", ".")] or [name]


def load_teacher(name: str, settings, called: str | None = None) -> Teacher:
    """The teacher of model `name`: `bm25`, a hub name or a folder.

    `called` is what its table's column `teacher` says, otherwise the last part of
    `name`. Raises LabError where the encoder cannot be found.
    """
    if name == "bm25":
        return BM25Teacher()
    model = encoder.load_encoder(settings, name)
    prompts = getattr(model, "prompts", None) or {}
    prompt = next((prompts[key] for key in QUERY_PROMPTS if prompts.get(key)), None)
    called = called or _parts(name)[-1]
    return EncoderTeacher(model, settings, name=called, query_prompt=prompt)


def candidates(
    teacher: Teacher,
    queries: Mapping[str, str],
    corpus: pd.DataFrame,
    positives: Mapping[str, Sequence[str]],
    depth: int,
    *,
    budget: int = BYTES,
) -> Candidates:
    """The `depth` best documents of every query under one teacher, by exact search.

    queries: id to text. corpus: columns id, text. positives: query id to the ids of its
    labelled positives, which are scored directly wherever they rank. Memory stays under
    about twice `budget` bytes beside the teacher's own. Raises LabError for an empty
    corpus, a query without a positive or a positive that is not in the corpus.
    """
    return Search(teacher, queries, corpus, positives, depth, budget).candidates()
