"""Teachers: who scores candidates (NV-Retriever, section on teacher models).

A teacher is a name, a fingerprint of whatever its scores depend on, and its `scores` of
a set's documents for the set's queries: products of vectors, or whole rows of numbers.
"""

import hashlib
import re
from collections.abc import Callable, Sequence
from functools import cached_property, partial
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Self

import bm25s
import numpy as np
import pandas as pd
from sentence_transformers import SentenceTransformer

from nbutils.core.draws import key, uniform
from nbutils.core.errors import LabError
from nbutils.core.retrieval import RetrievalSet
from nbutils.core.settings import Settings
from nbutils.core.text import SIGNS
from nbutils.encoder.models import compute_dtype, device_of
from nbutils.encoder.student import load_encoder, unpack_student
from nbutils.encoder.vectors import VECTORS, embed, fingerprint, kept
from nbutils.mining import server
from nbutils.mining.scoring import RowScores, Teacher, VectorScores, digest, places

QUERY_PROMPTS = ("query", "web_search_query", "retrieval.query", "s2p_query")
"""Names under which published encoders store the prompt that queries get."""

UNSPACED = re.compile(f"[{SIGNS}]+")


def query_prompt(model: SentenceTransformer) -> str | None:
    """What an encoder's queries get: the first of QUERY_PROMPTS that it has."""
    return next(filter(None, map(model.prompts.get, QUERY_PROMPTS)), None)


class RowTeacher:
    """A teacher without vectors; its `scorer` reads the documents' texts once."""

    floor = -np.inf

    def scores(self, data: RetrievalSet) -> RowScores:
        return RowScores(self.scorer(data.corpus["text"].tolist()), data, self.floor)


class BM25Teacher(RowTeacher):
    """Lexical teacher: Lucene's BM25 over lower-cased words without English stop words.

    In scripts without spaces (Chinese, Japanese, Thai) every two signs that stand
    together are a word, as in Lucene's analyzer of them. Of the ceilings only
    `perc_pos` has a meaning: the scores are not cosines.
    """

    name = "bm25"
    floor = 0.0  # no common word: not a candidate, and its rank would be an accident
    k1, b = 1.5, 0.75
    fingerprint = digest(
        name, version("bm25s"), k1, b, "lucene", "en", "pairs of signs"
    )

    def scorer(self, texts: Sequence[str]) -> Callable:
        """Index the documents; LabError where none has a word to search by."""
        words = self._words(texts)
        if not any(words):
            raise LabError("BM25 finds no words in the corpus: use another teacher")
        index = bm25s.BM25(method="lucene", k1=self.k1, b=self.b)
        index.index(words, show_progress=False)

        def scores(queries: Sequence[str]) -> np.ndarray:
            known = map(index.get_tokens_ids, self._words(queries))
            return np.stack([*map(index.get_scores_from_ids, known)])

        return scores

    @staticmethod
    def _words(texts: Sequence[str]) -> list[list[str]]:
        spaced = [UNSPACED.sub(" ", text) for text in texts]
        named = {"stopwords": "en", "return_ids": False, "show_progress": False}
        found = bm25s.tokenize(spaced, **named)
        for words, text in zip(found, texts, strict=True):
            for run in UNSPACED.findall(text):
                words += map("".join, pairwise(run)) if len(run) > 1 else [run]
        return found


class RandomTeacher(RowTeacher):
    """No teacher at all: a number for each (seed, query, document), keyed by the texts.

    NV-Retriever's random negatives are its `naive` mining; no ceiling has a meaning.
    """

    name = "random"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.fingerprint = digest(self.name, seed)

    def scorer(self, texts: Sequence[str]) -> Callable:
        def keys(names: Sequence[str]) -> np.ndarray:
            return np.fromiter(map(key, names), np.uint64, len(names))

        documents = keys(texts)
        return lambda queries: uniform(self.seed, keys(queries)[:, None], documents)


class TextTeacher:
    """A teacher whose score is the product of two unit vectors, made from texts.

    `vectors` gives them, float32 (texts, D); `queries` tells which kind of text.
    """

    device = "cpu"

    def scores(self, data: RetrievalSet) -> VectorScores:
        asked = self.vectors(list(data.queries.values()), queries=True)
        documents = self.vectors(data.corpus["text"].tolist())
        return VectorScores(asked, documents, self.device)


class EncoderTeacher(TextTeacher):
    """Dense teacher: the cosine of a SentenceTransformer's vectors.

    They are those of its `encode_query` and `encode_document`: its own prompts, routes
    and modules. The prompt of queries is the first of QUERY_PROMPTS that it has. On a
    CPU 4-bit weights are unpacked: that halves the time.
    """

    def __init__(self, model, settings: Settings, *, name: str):
        packed = any(getattr(m, "is_loaded_in_4bit", False) for m in model.modules())
        if packed and model.device.type == "cpu":
            model = unpack_student(model)
        self.model, self.settings, self.name = model, settings, name
        self.query_prompt = query_prompt(model)
        self.device = device_of(settings)
        dtype = compute_dtype(settings.encoder.compute_dtype, model.device.type)
        self.fingerprint = digest(fingerprint(model), self.query_prompt, str(dtype))

    def vectors(self, texts: Sequence[str], *, queries: bool = False) -> np.ndarray:
        role, prompt = ("query", self.query_prompt) if queries else ("document", None)
        return embed(self.model, list(texts), self.settings, prompt, role=role)


class ServerTeacher(TextTeacher):
    """An embeddings server that speaks OpenAI's API; its vectors are kept on disk.

    A server does not show its weights: the cache is keyed by model name and text, so
    give a changed model another name. batch: texts in a request. LabError as of
    `server.ask`.
    """

    def __init__(self, model: str, batch: int = 64):
        self.model, self.batch, self.name = model, batch, Path(model).name
        self.fingerprint = digest("server", model, "")

    def vectors(self, texts: Sequence[str], *, queries: bool = False) -> np.ndarray:
        path = VECTORS / f"server-{digest(self.model)}.sqlite"
        ask = partial(server.ask, self.model, size=self.batch)
        return _unit(kept(path, texts, "", ask))


class VectorTeacher:
    """A teacher that only has vectors, whatever made them; its score is the cosine.

    By kind, `queries` and `corpus`: ids, and one vector each, (rows, D), as an array or
    memory map. Rows that are not of unit length are scaled.
    """

    def __init__(self, ids, vectors, name: str = "vectors", device: str = "cpu"):
        self.ids = {kind: pd.Index(names) for kind, names in ids.items()}
        self.rows = {kind: _unit(rows) for kind, rows in vectors.items()}
        self.name, self.device = name, device

    @classmethod
    def read(cls, folder: str | Path, device: str = "cpu") -> Self:
        """From KIND.npy, and KIND.txt with the id of each row, one a line."""
        ids, vectors = {}, {}
        for kind in ("queries", "corpus"):
            path = Path(folder, kind).with_suffix(".npy")
            try:
                rows = np.load(path, mmap_mode="r", allow_pickle=False)
                names = path.with_suffix(".txt").read_text("utf-8").splitlines()
            except (OSError, ValueError) as error:
                raise LabError(
                    f"{folder} needs {kind}.npy, vectors, and {kind}.txt, the id of "
                    f"each, one a line: {error}"
                ) from None
            if rows.ndim != 2 or len(rows) != len(names) or len({*names}) < len(names):
                raise LabError(
                    f"{path} has shape {rows.shape} and {kind}.txt {len(names)} ids: "
                    "give one vector an id, and each id once"
                )
            ids[kind], vectors[kind] = names, rows
        return cls(ids, vectors, Path(folder).resolve().name, device)

    @cached_property
    def fingerprint(self) -> str:
        whole = map(np.ascontiguousarray, self.rows.values())
        rows = [hashlib.sha256(rows).hexdigest() for rows in whole]
        return digest([list(names) for names in self.ids.values()], rows)

    def scores(self, data: RetrievalSet) -> VectorScores:
        """LabError for an id that has no vector."""
        rows = dict(self.rows)
        for kind, names in ("queries", list(data.queries)), ("corpus", data.corpus.id):
            if not self.ids[kind].equals(pd.Index(names)):
                fault = f"teacher {self.name!r} has no vector in its {kind} of {{!r}}"
                rows[kind] = rows[kind][places(self.ids[kind], names, fault)]
        return VectorScores(rows["queries"], rows["corpus"], self.device)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Rows of unit length, float32; as they are if they have it; zeros stay."""
    kind = np.result_type(vectors, np.float32)  # sums of narrower ones overflow
    length = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=kind))
    if vectors.dtype == np.float32 and np.allclose(length, 1, atol=1e-5):
        return vectors
    vectors = vectors / np.where(length > 0, length, 1)[:, None]
    return vectors.astype(np.float32)


def load_teachers(settings: Settings) -> dict[str, Teacher]:
    """Every teacher of the settings under a name of its own, in their order.

    The name is the last part of the model's; where two share it, the whole of it with
    `--` for `/`. LabError as of `load_teacher`, and for one model named twice.
    """
    paths = [Path(name) for name in settings.mining.teachers]
    last, found = [path.name for path in paths], {}
    for name, path in zip(settings.mining.teachers, paths, strict=True):
        whole = path.as_posix().lstrip("/").replace("/", "--")
        called = path.name if last.count(path.name) == 1 else whole
        if called in found:
            raise LabError(f"`teachers` names {called!r} twice: name each teacher once")
        found[called] = load_teacher(name, settings)
        found[called].name = called  # what its table's column `teacher` says
    return found


def load_teacher(name: str, settings: Settings) -> Teacher:
    """The teacher `name`: `bm25`, `random`, a hub name, a folder (a trained student,
    say), `server:MODEL` or `vectors:FOLDER`; LabError where it cannot be found."""
    if name == "bm25":
        return BM25Teacher()
    if name == "random":
        return RandomTeacher(settings.seed)
    kind, _, asked = name.partition(":")
    if asked and kind == "server":
        return ServerTeacher(asked, settings.encoder.encode_batch)
    if asked and kind == "vectors":
        return VectorTeacher.read(asked, device_of(settings))
    return EncoderTeacher(load_encoder(settings, name), settings, name=Path(name).name)
