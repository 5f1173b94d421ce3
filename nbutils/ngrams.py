"""Unigram and trigram models: what a language model must beat to be worth its name."""

from __future__ import annotations

import numpy as np

from nbutils.errors import LabError


class NGrams:
    """Counts of n-grams up to an order, and what they say of the next token.

    Probabilities are interpolated by Witten and Bell (1991): an n-gram is trusted by
    how often its history was seen, against how many different tokens followed it.
    Unigrams are counted with one added.
    """

    def __init__(self, tokens: np.ndarray, vocabulary: int, order: int = 3):
        """`tokens` is (n,) of whole numbers below `vocabulary`.

        LabError for fewer tokens than the order, or keys that 63 bits cannot hold.
        """
        if len(tokens) < order:
            raise LabError(f"{len(tokens)} tokens are too few for {order}-grams")
        if vocabulary**order >= 2**63:
            raise LabError(f"{order}-grams of {vocabulary} tokens do not fit 63 bits")
        self.vocabulary, self.order = vocabulary, order
        tokens = np.asarray(tokens, np.int64)
        counted = np.bincount(tokens, minlength=vocabulary)
        self.first = np.log((counted + 1) / (len(tokens) + vocabulary))
        self.tables = [self._count(tokens, n) for n in range(2, order + 1)]

    def _keys(self, tokens: np.ndarray, n: int) -> np.ndarray:
        """One number an n-gram of consecutive tokens along the last axis."""
        length = tokens.shape[-1] - n + 1
        keys = np.zeros((*tokens.shape[:-1], length), np.int64)
        for place in range(n):
            keys = keys * self.vocabulary + tokens[..., place : place + length]
        return keys

    def _count(self, tokens: np.ndarray, n: int):
        """(n-grams, counts, histories, their counts, tokens that followed them)."""
        grams, counts = np.unique(self._keys(tokens, n), return_counts=True)
        histories, start = np.unique(grams // self.vocabulary, return_index=True)
        followers = np.diff(np.append(start, len(grams)))
        return grams, counts, histories, np.add.reduceat(counts, start), followers

    def log_probabilities(self, rows: np.ndarray) -> np.ndarray:
        """Log of the probability, in nats, of tokens order − 1 and on of each row.

        `rows` is (rows, tokens); returns (rows, tokens − order + 1).
        """
        rows = np.asarray(rows, np.int64)
        chance = np.exp(self.first[rows[:, self.order - 1 :]])
        for n, table in enumerate(self.tables, 2):
            grams, counts, histories, totals, followers = table
            keys = self._keys(rows, n)[:, self.order - n :]
            seen = _look_up(grams, counts, keys)
            total = _look_up(histories, totals, keys // self.vocabulary)
            kinds = _look_up(histories, followers, keys // self.vocabulary)
            known = np.maximum(total + kinds, 1)
            chance = np.where(total > 0, (seen + kinds * chance) / known, chance)
        return np.log(chance)


def _look_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Values of the wanted keys (sorted ones are given); zero for those not there."""
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)
