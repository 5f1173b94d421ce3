"""What the stages of pretraining read: the parts of every step, and their loss.

A lesson makes the parts (shards) of a step from the seed and the step's number alone,
so that a resumed run reads what the uninterrupted one would have read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from nbutils import corpora, objectives
from nbutils.corpora import Page
from nbutils.errors import LabError
from nbutils.settings import Pretraining

Shard = dict[str, Any]

POOL = 32
"""Shards whose texts are sorted by length together, then shuffled."""
VALIDATION_SHARDS = 4
TEMPLATE = 16
"""Tokens that template and instruction take, about, where shards are planned."""


@dataclass
class Work:
    """What the lessons are made from: pages, tokenizer, settings, the work folder."""

    pages: list[Page]
    tokenizer: Any
    settings: Pretraining
    folder: Path


class Lesson(Protocol):
    """What a stage asks of its data. `step` −1 asks for validation shards."""

    def shard(self, step: int, part: int) -> Shard:
        """Part `part` of step `step`."""

    def loss(self, model, shard: Shard) -> torch.Tensor:
        """The loss of a shard, a scalar."""

    def tokens(self, shard: Shard) -> int:
        """Real tokens of a shard that go through the model."""


class Dealer:
    """Numbers 0 … count − 1, dealt anew in each epoch, each drawn once an epoch."""

    def __init__(self, count: int, seed: int):
        self.count, self.seed = count, seed
        self.epoch, self.order = -1, np.zeros(0, int)

    def __call__(self, place: int) -> int:
        epoch, within = divmod(place, self.count)
        order = self.order
        if epoch != self.epoch:
            order = np.random.default_rng([self.seed, epoch]).permutation(self.count)
            self.order, self.epoch = order, epoch
        return int(order[within])


class Packed:
    """Rows of packed tokens; `masked` makes masked-next-token prediction of them."""

    def __init__(self, work: Work, masked: bool = False):
        settings = work.settings
        self.settings, self.masked = settings, masked
        self.mask_id = work.tokenizer.unk_token_id
        self.train = corpora.packed(work.folder, "train")
        self.held_out = corpora.packed(work.folder, "validation")
        self.rows = max(1, settings.shard_tokens // settings.length)
        for name, tokens in (("train", self.train), ("validation", self.held_out)):
            if len(tokens) < settings.length:
                raise LabError(
                    f"the {name} text has only {len(tokens)} tokens, one row takes "
                    f"{settings.length}: give more text or set length lower"
                )
        self.deal = Dealer(len(self.train) // settings.length, settings.seed)

    def shard(self, step: int, part: int) -> Shard:
        length, shards = self.settings.length, self.settings.shards
        first = ((step * shards if step >= 0 else 0) + part) * self.rows
        places = range(first, first + self.rows)
        if step < 0:
            rows = len(self.held_out) // length
            source, chosen = self.held_out, [p % rows for p in places]
        else:
            source, chosen = self.train, [self.deal(p) for p in places]
        ids = np.stack([source[p * length : (p + 1) * length] for p in chosen])
        inputs = labels = torch.from_numpy(ids.astype(np.int64))
        if self.masked:
            seed = [self.settings.seed, 7, max(step, 0), part, int(step < 0)]
            drawn = torch.Generator().manual_seed(_number(seed))
            inputs, labels = objectives.mask_tokens(
                inputs, torch.ones_like(inputs), self.mask_id,
                self.settings.mask_share, drawn,
            )  # fmt: skip
        return {"inputs": inputs, "labels": labels}

    def loss(self, model, shard: Shard) -> torch.Tensor:
        return objectives.predict_next(model, shard["inputs"], shard["labels"])

    def tokens(self, shard: Shard) -> int:
        return shard["inputs"].numel()


class Cut:
    """Shards that are cut anew in each epoch; a subclass says how, in `_cut`."""

    def __init__(self) -> None:
        self.epoch, self.shards = 0, self._cut(0)
        self.least = len(self.shards)
        """Shards of an epoch: as many as the first has, whatever later ones have."""

    def _cut(self, epoch: int) -> list[np.ndarray]:
        raise NotImplementedError

    def __call__(self, place: int) -> np.ndarray:
        """Indices of the texts of shard `place`, counted over epochs."""
        epoch, within = divmod(place, self.least)
        if epoch != self.epoch:
            self.shards, self.epoch = self._cut(epoch), epoch
        return self.shards[within % len(self.shards)]


class Buckets(Cut):
    """Texts grouped by length into shards of about `budget` padded tokens."""

    def __init__(
        self,
        lengths: Sequence[int],
        budget: int,
        seed: int,
        groups: Sequence[int] | None = None,
    ):
        """Texts of different `groups` share no shard."""
        self.lengths, self.budget = np.asarray(lengths), budget
        self.groups = np.zeros(len(lengths), int) if groups is None else groups
        self.groups = np.asarray(self.groups)
        self.seed = seed
        super().__init__()

    def _cut(self, epoch: int) -> list[np.ndarray]:
        generator = np.random.default_rng([self.seed, epoch])
        order = generator.permutation(len(self.lengths))
        pool = POOL * max(1, self.budget // max(1, int(self.lengths.mean())))
        shards = []
        for start in range(0, len(order), pool):
            some = order[start : start + pool]
            some = some[np.lexsort((self.lengths[some], self.groups[some]))]
            current: list[int] = []
            for index in some:
                full = self.lengths[index] * (len(current) + 1) > self.budget
                if current and (full or self.groups[index] != self.groups[current[0]]):
                    shards.append(np.array(current))
                    current = []
                current.append(index)
            shards.append(np.array(current))
        several = [s for s in shards if len(s) > 1] or shards  # one has no negative
        return [several[i] for i in generator.permutation(len(several))]


def token_counts(texts: Sequence[str], tokenizer) -> list[int]:
    """Tokens of each text, special ones left out."""
    fast = tokenizer.backend_tokenizer
    fast.no_truncation()
    found: list[int] = []
    for start in range(0, len(texts), 8192):
        part = list(texts[start : start + 8192])
        encoded = fast.encode_batch_fast(part, add_special_tokens=False)
        found += [len(text.ids) for text in encoded]
    return found


def _number(parts: Sequence[int]) -> int:
    return int(np.random.SeedSequence(parts).generate_state(1)[0])
