"""Equality of texts, words and word n-grams: what the lab counts texts by."""

import re
import unicodedata
from collections.abc import Iterable

# Scripts without spaces: Thai, Lao, Burmese, Khmer, kana, Han (with its extensions).
SIGNS = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U0003ffff"
)
# Marks are no letters to `\w`, but parts of words: accents, points, Indic vowels.
MARKS = (
    "\u0300-\u036f\u0591-\u05c7\u0610-\u061a\u064b-\u065f\u0670"
    "\u0900-\u0963\u0966-\u0d7f"
)
RUN = rf"[^\W{SIGNS}]+(?:[{MARKS}]+[^\W{SIGNS}]*)*"
SIGN = re.compile(rf"[{SIGNS}](?<=\w)")
WORD = re.compile(rf"{RUN}(?:[’'.,-]{RUN})*|{SIGN.pattern}")
# Marks that change the meaning of what they stand beside stay: C#, C++, 5 %, −3, F♯.
PUNCTUATION = re.compile(
    r"-(?!\d)|[!\"'()*,./:;?\[\]{}\\_`´‘’“”„«»‹›‐‑–—…·•¿¡|~。、「」『』《》【】]"
)


def normalise(text: str) -> str:
    """The form in which two texts are equal: case, spacing and punctuation ignored."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(PUNCTUATION.sub(" ", plain).split())


def words(text: str) -> list[str]:
    """The words of a text in lower case; a number or a hyphenated word is one.

    In scripts without spaces every sign is one: runs of them can be compared.
    """
    return WORD.findall(text.lower())


def has_spaces(text: str) -> bool:
    """Whether a text's words can be counted: most are not signs of such a script."""
    return 2 * len(SIGN.findall(text)) <= len(words(text))


def distinct_n(texts: Iterable[str], n: int) -> float:
    """Share of word n-grams that are different (distinct-n, Li et al. 2016).

    It falls as a set grows, so compare sets of the same size only.
    """
    lists = [words(text) for text in texts]
    grams = [tuple(w[i : i + n]) for w in lists for i in range(len(w) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0
