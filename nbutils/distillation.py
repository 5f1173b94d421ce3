"""Distillation of a sentence encoder: its vectors, made once, and the lesson of them.

The targets are the teacher's vectors on their leading axes, as many as the student is
wide, so that the student's own vectors are compared with them and no head is thrown
away after training.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

from nbutils import objectives
from nbutils.corpora import Page
from nbutils.decoder import principal_axes
from nbutils.errors import LabError
from nbutils.lessons import (
    TEMPLATE,
    Buckets,
    Cut,
    Shard,
    Work,
    token_counts,
)
from nbutils.models import compute_dtype, minilm_folder
from nbutils.records import write_json
from nbutils.templates import Pieces, tokenize

ASK_MATCH = "Given a text, retrieve the texts that mean the same"
SHORT, LONG = 200, 600
"""Characters of most texts and of one in eight: MiniLM's and our tokens then cover the
same words, and longer documents are not unknown."""
AT_ONCE = 2048
LEADING = 64
"""Axes of the teacher by which near texts are found."""
HELD_OUT = 1000
FITTED = 20_000
"""Texts that the leading axes are computed from."""


def texts_of(pages: Sequence[Page], most: int) -> list[str]:
    """At most `most` texts, page after page: title, opening, one later passage."""
    found: list[str] = []
    for page in pages:
        passages = page.passages()
        chosen = [page.title, *passages[:1], *passages[len(passages) // 2 :][:1]]
        for text in dict.fromkeys(filter(None, chosen)):
            if len(found) == most:
                return found
            found.append(_cut(text, LONG if len(found) % 8 == 0 else SHORT))
    return found


def _cut(text: str, most: int) -> str:
    """The text's first words, at most `most` characters."""
    return text if len(text) <= most else text[:most].rsplit(" ", 1)[0]


def teacher_vectors(
    texts: Sequence[str],
    folder: str | Path,
    longest: int,
    tell: Callable[[str], None] = print,
) -> np.ndarray:
    """MiniLM's unit vectors of `texts`, float16 (texts, 384), mapped from a file.

    Encoded once: each batch is kept as it comes, and a stopped run goes on. Vectors of
    other texts in the folder are an error, not a guess.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256("\0".join([str(longest), *texts]).encode()).hexdigest()
    card, path = folder / "teacher.json", folder / "teacher.bin"
    state = {"texts": len(texts), "sha256": digest, "width": 384, "done": 0}
    if card.is_file():
        known = json.loads(card.read_text(encoding="utf-8"))
        if {**known, "done": 0} != state or not path.is_file():
            raise LabError(
                f"{folder} holds a teacher's vectors of other texts: remove it, or "
                "run with the settings that it was made with"
            )
        state = known
    shape = (len(texts), 384)
    if not path.is_file():
        with path.open("wb") as file:
            file.truncate(2 * shape[0] * shape[1])
    vectors = np.memmap(path, np.float16, mode="r+", shape=shape)
    model = None
    while state["done"] < len(texts):
        model = model or _teacher(longest)
        start = state["done"]
        stop = min(start + AT_ONCE, len(texts))
        vectors[start:stop] = _encode(model, texts[start:stop])
        vectors.flush()
        state["done"] = stop
        write_json(card, state)
        tell(f"teacher: {stop:,} of {len(texts):,} texts")
    return np.memmap(path, np.float16, mode="r", shape=shape)


def _teacher(longest: int):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(minilm_folder()), device="cpu")
    model.max_seq_length = longest
    return model


def _encode(model, texts: Sequence[str]) -> np.ndarray:
    low = compute_dtype("auto", "cpu") == torch.bfloat16
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16, enabled=low):
        found = model.encode(
            list(texts),
            batch_size=64,
            convert_to_tensor=True,
            normalize_embeddings=True,
            show_progress_bar=False,
        )
    return found.float().numpy().astype(np.float16)


class Taught:
    """Texts and the teacher's vectors of them, on the student's axes.

    The first `first` texts are those of pages set aside; no stage trains on them.
    """

    def __init__(self, work: Work):
        settings = work.settings
        train = [page for page in work.pages if not page.held_out]
        held_out = texts_of([p for p in work.pages if p.held_out], HELD_OUT)
        self.texts = held_out + texts_of(train, settings.teacher_texts)
        self.first, self.silent = len(held_out), settings.silent_axes
        if min(self.first, len(self.texts) - self.first) < 4:
            raise LabError("the text gives no four passages to distil: give more text")
        self.vectors = teacher_vectors(
            self.texts, work.folder.parent / "teacher", settings.length
        )
        some = torch.from_numpy(np.array(self.vectors[:FITTED], np.float32))
        self.heard = settings.hidden - self.silent
        self.axes = principal_axes(some, min(self.heard, some.shape[1]))

    def targets(self, chosen: Sequence[int]) -> torch.Tensor:
        """The teacher's vectors as the student should have them: unit, (texts, dim).

        The student's silent axes come first and are zero.
        """
        found = torch.from_numpy(np.array(self.vectors[chosen], np.float32)) @ self.axes
        missing = self.heard - found.shape[1]
        padded = functional.pad(found, (self.silent, missing))
        return functional.normalize(padded, dim=-1)


class Distill:
    """Texts with the teacher's vectors; every second part is written as a query."""

    def __init__(self, work: Work):
        self.settings, self.tokenizer = work.settings, work.tokenizer
        self.taught = taught = Taught(work)
        self.pieces = [Pieces(self.tokenizer, "inst", ask) for ask in ("", ASK_MATCH)]
        self.deal = self._dealt(np.arange(taught.first, len(taught.texts)))
        self.deal_held_out = self._dealt(np.arange(taught.first))

    def _dealt(self, chosen: np.ndarray) -> Callable[[int], np.ndarray]:
        """Which of the `chosen` texts stand in a shard, by its number."""
        return Buckets(
            self._lengths(chosen), self.settings.pair_tokens, self.settings.seed
        )

    def _lengths(self, chosen: np.ndarray) -> np.ndarray:
        texts = [self.taught.texts[i] for i in chosen]
        counts = np.array(token_counts(texts, self.tokenizer)) + TEMPLATE
        return np.minimum(counts, self.settings.length)

    def shard(self, step: int, part: int) -> Shard:
        if step < 0:
            chosen = self.deal_held_out(part)
        else:
            place = step * self.settings.shards + part
            chosen = self.taught.first + self.deal(place)
        return {
            "texts": tokenize(
                [self.taught.texts[i] for i in chosen],
                self.tokenizer,
                self.pieces[part % 2],
                "llm2vec",
                self.settings.length,
            ),
            "targets": self.taught.targets(chosen),
        }

    def loss(self, model, shard: Shard) -> torch.Tensor:
        vectors = objectives.vectors_of(model, shard["texts"])
        return objectives.distil(vectors, shard["targets"], self.settings.temperature)

    def tokens(self, shard: Shard) -> int:
        return int(shard["texts"]["attention_mask"].sum())


class Neighbours(Distill):
    """The same among near texts: what a teacher tells apart where it is hard.

    Random texts differ in topic, and a student that has the topics right learns nothing
    more from them. Here a shard's texts are near to each other by the teacher.
    """

    def _dealt(self, chosen: np.ndarray) -> Callable[[int], np.ndarray]:
        vectors = np.array(self.taught.vectors[chosen], np.float32)
        near = vectors @ self.taught.axes[:, :LEADING].numpy()
        return Clusters(
            near,
            self._lengths(chosen),
            self.settings.pair_tokens,
            self.settings.seed,
        )


class Clusters(Cut):
    """Near texts grouped into shards of at most `budget` padded tokens.

    Each epoch cuts the texts anew: by length into two, then in halves along the line
    between two texts drawn, as a random-projection tree does, until a part fits.
    """

    def __init__(
        self, vectors: np.ndarray, lengths: np.ndarray, budget: int, seed: int
    ):
        self.vectors, self.lengths = vectors, lengths
        self.budget, self.seed = budget, seed
        super().__init__()

    def _cut(self, epoch: int) -> list[np.ndarray]:
        generator = np.random.default_rng([self.seed, 11, epoch])
        longer = self.lengths > 2 * np.median(self.lengths)
        parts = [np.flatnonzero(longer), np.flatnonzero(~longer)]
        shards = []
        while parts:
            part = parts.pop()
            if len(part) < 4 or self.lengths[part].max() * len(part) <= self.budget:
                shards.append(part)
                continue
            one, other = self.vectors[generator.choice(part, 2, replace=False)]
            order = part[np.argsort(self.vectors[part] @ (one - other), kind="stable")]
            parts += np.array_split(order, 2)
        several = [shard for shard in shards if len(shard) > 1]
        return [several[i] for i in generator.permutation(len(several))]
