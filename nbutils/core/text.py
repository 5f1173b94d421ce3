"""Equality of texts, words and word n-grams: what the lab counts texts by."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

WORD = re.compile(r"\w+(?:[’'.,-]\w+)*")
# Marks that change the meaning of what they stand beside stay: C#, C++, 5 %, −3, F♯.
PUNCTUATION = re.compile(r"-(?!\d)|[!\"'()*,./:;?\[\]{}\\_`´‘’“”„«»‹›‐‑–—…·•¿¡|~]")


def normalise(text: str) -> str:
    """The form in which two texts are equal: case, spacing and punctuation ignored."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(PUNCTUATION.sub(" ", plain).split())


def words(text: str) -> list[str]:
    """The words of a text in lower case; a number or a hyphenated word is one."""
    return WORD.findall(text.lower())


def distinct_n(texts: Iterable[str], n: int) -> float:
    """Share of word n-grams that are different, 0 to 1 (distinct-n, Li et al. 2016).

    It falls as a set grows, so compare sets of the same size only.
    """
    grams = [gram for text in texts for gram in _ngrams(words(text), n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def _ngrams(tokens: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]
