"""The first lesson: the token embeddings alone, a text as the bag of its tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from nbutils import objectives
from nbutils.distillation import Taught
from nbutils.errors import LabError
from nbutils.lessons import Dealer, Shard, Work
from nbutils.pairs import page_pairs, same_texts

CHARACTERS = 250
"""A longer passage is cut: its opening says what it is about."""


class Words:
    """Pairs of a page and the teacher's texts, as bags; the layers rest.

    A text is the mean of its tokens' embeddings after the final norm, which is what the
    model computes while its layers write nothing: a thousand texts cost what a few cost
    the whole model.
    """

    def __init__(self, work: Work):
        self.settings, self.tokenizer = work.settings, work.tokenizer
        self.taught = Taught(work)
        pages = [page for page in work.pages if not page.held_out]
        self.train = page_pairs(pages, named=False)
        self.held_out = page_pairs([p for p in work.pages if p.held_out], named=False)
        for name, pairs in (("train", self.train), ("validation", self.held_out)):
            if len(pairs) < 2:
                raise LabError(f"the {name} text gives no two pairs: give more text")
        seed, first = work.settings.seed, self.taught.first
        self.deal = Dealer(len(self.train), seed)
        self.deal_held_out = Dealer(len(self.held_out), seed)
        self.deal_texts = Dealer(len(self.taught.texts) - first, seed)

    def shard(self, step: int, part: int) -> Shard:
        count = self.settings.words_pairs
        first = ((step * self.settings.shards if step >= 0 else 0) + part) * count
        places = range(first, first + count)
        if step < 0:
            dealt = dict.fromkeys(self.deal_held_out(place) for place in places)
            pairs = [self.held_out[i] for i in dealt]
            texts = np.unique(np.array(places) % self.taught.first)
        else:
            pairs = [self.train[self.deal(place)] for place in places]
            texts = self.taught.first + np.unique(
                [self.deal_texts(place) for place in places]
            )
        queries, documents = (
            [pair[side][:CHARACTERS] for pair in pairs] for side in (1, 2)
        )
        return {
            "queries": self._bags(queries),
            "documents": self._bags(documents),
            "same": same_texts(queries, documents),
            "texts": self._bags([self.taught.texts[i] for i in texts]),
            "targets": self.taught.targets(texts),
        }

    def _bags(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """(tokens, where each text begins)."""
        fast = self.tokenizer.backend_tokenizer
        fast.no_truncation()
        rows = [e.ids for e in fast.encode_batch_fast(texts, add_special_tokens=False)]
        starts = np.cumsum([0, *map(len, rows[:-1])])
        return torch.tensor([i for row in rows for i in row]), torch.from_numpy(starts)

    def loss(self, model, shard: Shard) -> torch.Tensor:
        temperature = self.settings.temperature
        table = model.model.norm(model.model.embed_tokens.weight)
        queries, documents, texts = (
            objectives.bag_vectors(table, shard[side])
            for side in ("queries", "documents", "texts")
        )
        loss = objectives.distil(texts, shard["targets"], temperature)
        pairs = objectives.contrast(queries, documents, shard["same"], temperature)
        return loss + self.settings.words_contrast * pairs

    def tokens(self, shard: Shard) -> int:
        return sum(len(shard[side][0]) for side in ("queries", "documents", "texts"))
