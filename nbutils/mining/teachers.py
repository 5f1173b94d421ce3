"""Teachers: who scores candidates (NV-Retriever, section on teacher models).

A teacher is a name, a fingerprint of whatever its scores depend on, and a `scorer` over
a corpus. Searching with one is `candidates`; see `nbutils.candidates` for the table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import bm25s
import numpy as np
import pandas as pd

from nbutils.core.draws import key, uniform
from nbutils.core.errors import LabError
from nbutils.encoder.student import load_encoder, unpack_student
from nbutils.encoder.vectors import VECTORS, embed, fingerprint, kept
from nbutils.mining.candidates import BYTES, Candidates, Scorer, Search, Teacher, digest

SERVER = "server:"
SERVER_BATCH = 128
"""Texts in one request to an embeddings server."""

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


class RandomTeacher:
    """No teacher at all: a number for each (seed, query, document), keyed by the texts.

    NV-Retriever's random negatives are its `naive` mining. The number does not depend
    on order or blocks; it means nothing, so no ceiling does.
    """

    name = "random"
    floor = None

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.fingerprint = digest(self.name, seed)

    def scorer(self, texts: Sequence[str]) -> Scorer:
        """Scores in (0, 1), as good as independent."""
        documents = _keys(texts)

        def scores(queries: Sequence[str]) -> np.ndarray:
            return uniform(self.seed, _keys(queries)[:, None], documents)

        return scores


def _keys(texts: Sequence[str]) -> np.ndarray:
    return np.fromiter(map(key, texts), np.uint64, len(texts))


class DenseTeacher:
    """A teacher whose score is the product of two unit vectors.

    `vectors` gives them, float32 (texts, D); queries may be written with a prompt.
    """

    floor = None

    def vectors(self, texts: Sequence[str], *, queries: bool = False) -> np.ndarray:
        raise NotImplementedError

    def scorer(self, texts: Sequence[str]) -> Scorer:
        """Embed the corpus, and each query once; scores are one product a block."""
        documents, known = self.vectors(texts), {}

        def scores(queries: Sequence[str]) -> np.ndarray:
            new = [text for text in dict.fromkeys(queries) if text not in known]
            if new:
                known.update(zip(new, self.vectors(new, queries=True), strict=True))
            return np.stack([known[text] for text in queries]) @ documents.T

        return scores


class EncoderTeacher(DenseTeacher):
    """Dense teacher: the cosine of a SentenceTransformer's vectors.

    Vectors come through `encoder.embed`, which caches them by weights, prompt, length
    and text, so a changed weight is never served old vectors.
    """

    def __init__(self, model, settings, *, name: str, query_prompt: str | None = None):
        self.model, self.settings, self.name = model, settings, name
        self.query_prompt = query_prompt
        self.fingerprint = digest(
            fingerprint(model), query_prompt, settings.encoder.max_length
        )

    @classmethod
    def of_student(cls, model, settings, *, name: str) -> EncoderTeacher:
        """A 4-bit student as teacher, on a CPU with its weights unpacked once.

        There that halves the time of a corpus; the vectors are equal to bfloat16's
        rounding (`encoder.unpack_student`). A GPU's 4-bit products need no unpacking.
        """
        if model.device.type == "cpu":
            model = unpack_student(model)
        return cls(model, settings, name=name)

    def vectors(self, texts: Sequence[str], *, queries: bool = False) -> np.ndarray:
        prompt = self.query_prompt if queries else None
        return embed(self.model, list(texts), self.settings, prompt=prompt)


class VectorTeacher(DenseTeacher):
    """A dense teacher that only has vectors: a file for queries, one for documents.

    texts: of the rows, in their order. The cosine is that of whatever made the vectors;
    they are scaled to unit length here. Raises LabError for rows that do not fit.
    """

    def __init__(self, vectors: Mapping[str, np.ndarray], name: str = "vectors"):
        self._rows, self.name = vectors, name
        rows = [[text, digest(np.asarray(v).tolist())] for text, v in vectors.items()]
        self.fingerprint = digest(name, rows)

    @classmethod
    def read(cls, *files: tuple[str | Path, Sequence[str]], name: str = "vectors"):
        """From pairs of a .npy file (rows, D) and the texts of its rows."""
        vectors: dict[str, np.ndarray] = {}
        for path, texts in files:
            try:
                rows = np.load(path, mmap_mode="r", allow_pickle=False)
            except (OSError, ValueError) as error:
                raise LabError(f"{path} is no .npy file of vectors: {error}") from None
            if rows.ndim != 2 or len(rows) != len(texts):
                raise LabError(
                    f"{path} has shape {rows.shape} and there are {len(texts)} texts: "
                    "give one vector a text, in their order"
                )
            vectors |= dict(zip(texts, rows, strict=True))
        return cls(vectors, name)

    def vectors(self, texts: Sequence[str], *, queries: bool = False) -> np.ndarray:
        """Those of the texts given; LabError for a text that has none."""
        lacking = next((text for text in texts if text not in self._rows), None)
        if lacking is not None:
            raise LabError(f"teacher {self.name!r} has no vector of {lacking[:60]!r}")
        return _unit(np.stack([self._rows[text] for text in texts]))


class ServerTeacher(DenseTeacher):
    """An embeddings server that speaks OpenAI's API; its vectors are kept on disk.

    The client reads OPENAI_API_KEY and OPENAI_BASE_URL and retries by itself. A server
    does not show its weights: the cache is keyed by model name, prompt and text, so
    give a changed model another name. Raises LabError where the server refuses.
    """

    def __init__(self, model: str, *, prompt: str = "", cache=VECTORS, client=None):
        self.model, self.prompt = model, prompt
        self.name = _parts(model)[-1]
        self.fingerprint = digest("server", model, prompt)
        self._path = Path(cache, f"server-{digest(model)}.sqlite")
        self._client = client

    def vectors(self, texts: Sequence[str], *, queries: bool = False) -> np.ndarray:
        """Asks for those that no answer holds yet."""
        prompt = self.prompt if queries else ""
        asked = partial(self._ask, prompt)
        return _unit(kept(self._path, texts, prompt, asked))

    def _ask(self, prompt: str, texts: Sequence[str]) -> Iterator[list[list[float]]]:
        """Vectors of batches of texts, as they come."""
        import openai

        client = self._client or openai.OpenAI()
        for start in range(0, len(texts), SERVER_BATCH):
            part = [prompt + text for text in texts[start : start + SERVER_BATCH]]
            try:
                answer = client.embeddings.create(
                    model=self.model, input=part, encoding_format="float"
                )
            except openai.OpenAIError as error:
                raise LabError(
                    f"the embeddings server gave no vectors ({error}): check "
                    "OPENAI_BASE_URL, OPENAI_API_KEY and the model's name"
                ) from None
            rows = sorted(answer.data, key=lambda row: row.index)
            if len(rows) != len(part):
                raise LabError(
                    f"the embeddings server gave {len(rows)} vectors for {len(part)} "
                    "texts"
                )
            yield [row.embedding for row in rows]


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to unit length, float32; a row of zeros stays."""
    vectors = np.asarray(vectors, dtype=np.float32)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(length > 0, length, 1)


def load_teachers(settings) -> dict[str, Teacher]:
    """Every teacher of the settings under a name of its own, in their order.

    The name is the last part of the model's; where two share it, the whole of it with
    `--` for `/`, so that neither takes the other's place or file. Raises LabError where
    an encoder cannot be found, and for one model named twice.
    """
    parts = [_parts(name) for name in settings.mining.teachers]
    last = [part[-1] for part in parts]
    called = [p[-1] if last.count(p[-1]) == 1 else "--".join(p) for p in parts]
    twice = next((name for name in called if called.count(name) > 1), None)
    if twice is not None:
        raise LabError(f"`teachers` names {twice!r} twice: name each teacher once")
    pairs = zip(called, settings.mining.teachers, strict=True)
    return {own: load_teacher(name, settings, own) for own, name in pairs}


def _parts(name: str) -> list[str]:
    return [part for part in name.split("/") if part not in ("", ".")] or [name]


def load_teacher(name: str, settings, called: str | None = None) -> Teacher:
    """The teacher of model `name`: `bm25`, `random`, a hub name, a folder (a trained
    student, say) or `server:MODEL`, an OpenAI-compatible embeddings server.

    `called` is what its table's column `teacher` says, otherwise the last part of
    `name`. Raises LabError where the encoder cannot be found.
    """
    if name == "bm25":
        return BM25Teacher()
    if name == "random":
        return RandomTeacher(settings.seed)
    if name.startswith(SERVER):
        return ServerTeacher(name.removeprefix(SERVER))
    model = load_encoder(settings, name)
    prompts = getattr(model, "prompts", None) or {}
    prompt = next((prompts[key] for key in QUERY_PROMPTS if prompts.get(key)), None)
    called = called or _parts(name)[-1]
    return EncoderTeacher(model, settings, name=called, query_prompt=prompt)


def search_candidates(
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
