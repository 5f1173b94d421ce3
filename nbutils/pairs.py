"""Lessons of pairs of texts of one page: bags of tokens, turns, contrast."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from nbutils import objectives
from nbutils.corpora import Page
from nbutils.errors import LabError
from nbutils.lessons import TEMPLATE, Buckets, Shard, Work, token_counts
from nbutils.templates import Pieces, tokenize

ASK_TITLE = "Given a title, retrieve the passage that it is the title of"
ASK_NEXT = "Given a passage, retrieve the passage that stands beside it"
ASK_WRITE = "Write the passage that has this title"
ASK_NAME = "Write the title of this passage"
CHARACTERS = 700
"""A longer passage is cut before it is tokenized: its end would not be read."""


class Pairs:
    """Pairs of texts of one page: what instruct and contrast read."""

    def __init__(self, work: Work, named: bool):
        """`named`: pairs of title and passage only; else neighbouring passages too."""
        self.longest, self.budget = work.settings.length, work.settings.shard_tokens
        if not named:
            self.longest = work.settings.text_length
            self.budget = work.settings.pair_tokens
        self.settings, self.tokenizer = work.settings, work.tokenizer
        chosen = [p for p in work.pages if p.title or not named]
        self.train = page_pairs([p for p in chosen if not p.held_out], named)
        self.held_out = page_pairs([p for p in chosen if p.held_out], named)
        for name, pairs in (("train", self.train), ("validation", self.held_out)):
            if len(pairs) < 2:
                raise LabError(f"the {name} text gives no two pairs: give more text")
        self.deal = self._bucketed(self.train)
        self.deal_held_out = self._bucketed(self.held_out)

    def _bucketed(self, pairs: list[tuple[str, str, str]]) -> Buckets:
        longest = self.longest - TEMPLATE
        lengths = np.full(len(pairs), 2 * TEMPLATE)
        for side in (1, 2):
            counts = token_counts([pair[side] for pair in pairs], self.tokenizer)
            lengths += np.minimum(counts, longest)
        asks = [int(ask == ASK_NEXT) for ask, _, _ in pairs]
        return Buckets(lengths, self.budget, self.settings.seed, asks)

    def pairs(self, step: int, part: int) -> list[tuple[str, str, str]]:
        """(instruction, query, document) of a shard's pairs."""
        if step < 0:
            return [self.held_out[i] for i in self.deal_held_out(part)]
        return [self.train[i] for i in self.deal(step * self.settings.shards + part)]


class Instruct(Pairs):
    """Titles and passages as turns of a conversation; the answer's tokens count."""

    def __init__(self, work: Work):
        super().__init__(work, named=True)

    def shard(self, step: int, part: int) -> Shard:
        inputs, labels = [], []
        ignored = objectives.IGNORED
        for number, (_, title, passage) in enumerate(self.pairs(step, part)):
            ask, given, answer = (
                (ASK_WRITE, title, passage)
                if number % 2
                else (ASK_NAME, passage, title)
            )
            asked, told = self._turns(f"{ask}; {given}", answer)
            ids = (asked + told)[: self.settings.length]
            inputs.append(ids)
            labels.append(([ignored] * len(asked) + told)[: self.settings.length])
        width = -(-max(map(len, inputs)) // 8) * 8
        pad = self.tokenizer.pad_token_id
        return {
            "inputs": padded(inputs, width, pad),
            "labels": padded(labels, width, ignored),
            "mask": padded([[1] * len(ids) for ids in inputs], width, 0),
        }

    def _turns(self, request: str, answer: str) -> tuple[list[int], list[int]]:
        """Tokens of the user's turn and of the assistant's, by the chat template."""
        head, tail = (
            self.tokenizer(text, add_special_tokens=False)["input_ids"]
            for text in (f"[INST] {request}", f" [/INST] {answer}")
        )
        tail = [*tail, self.tokenizer.eos_token_id]
        end = tail.index(self.tokenizer.convert_tokens_to_ids("[/INST]")) + 1
        room = self.settings.length * 3 // 4  # an answer is always asked for
        return [self.tokenizer.bos_token_id, *head[:room], *tail[:end]], tail[end:]

    def loss(self, model, shard: Shard) -> torch.Tensor:
        return objectives.predict_next(
            model, shard["inputs"], shard["labels"], shard["mask"]
        )

    def tokens(self, shard: Shard) -> int:
        return int(shard["mask"].sum())


class Contrast(Pairs):
    """Pairs in the format that the encoder uses: the query's side is instructed."""

    def __init__(self, work: Work):
        super().__init__(work, named=False)
        self.plain = Pieces(self.tokenizer, "inst")
        self.asked = {
            ask: Pieces(self.tokenizer, "inst", ask) for ask in (ASK_TITLE, ASK_NEXT)
        }

    def shard(self, step: int, part: int) -> Shard:
        pairs = self.pairs(step, part)
        kind = pairs[0][0]  # one instruction a shard
        queries, documents = [q for _, q, _ in pairs], [d for _, _, d in pairs]
        length = self.longest
        return {
            "queries": tokenize(
                queries, self.tokenizer, self.asked[kind], "llm2vec", length
            ),
            "documents": tokenize(
                documents, self.tokenizer, self.plain, "llm2vec", length
            ),
            "same": same_texts(queries, documents),
        }

    def loss(self, model, shard: Shard) -> torch.Tensor:
        queries = objectives.vectors_of(model, shard["queries"])
        documents = objectives.vectors_of(model, shard["documents"])
        return objectives.contrast(
            queries, documents, shard["same"], self.settings.temperature
        )

    def tokens(self, shard: Shard) -> int:
        sides = (shard["queries"], shard["documents"])
        return sum(int(side["attention_mask"].sum()) for side in sides)


def same_texts(queries: Sequence[str], documents: Sequence[str]) -> torch.Tensor:
    """(n, n), true where document j is no negative of query i.

    The two queries are equal, or the two documents, or document j is query i itself (a
    passage is one pair's document and the next one's query). A pair itself is false.
    """
    _, number = np.unique(
        np.array([*queries, *documents], dtype=object), return_inverse=True
    )
    query, document = number[: len(queries)], number[len(queries) :]
    same = (query[:, None] == query) | (document[:, None] == document)
    same |= query[:, None] == document
    return torch.from_numpy(same).fill_diagonal_(False)


def page_pairs(pages: list[Page], named: bool) -> list[tuple[str, str, str]]:
    """(instruction, query, document) from pages: title and opening, neighbours."""
    found = []
    for page in pages:
        passages = [text[:CHARACTERS] for text in page.passages()]
        if page.title and passages:
            found.append((ASK_TITLE, page.title, passages[0]))
        if not named:
            found += [(ASK_NEXT, a, b) for a, b in pairwise(passages[:4])]
    return found


def padded(rows: Sequence[Sequence[int]], width: int, fill: int) -> torch.Tensor:
    return torch.tensor([[*row, *[fill] * (width - len(row))] for row in rows])
