"""Page 01: reading an answer without trusting it, and tasks that repeat each other."""

import json
import re

import numpy as np

from exercises import Exercise


def first_list(text: str) -> list | None:
    """The first JSON list in `text`, or None."""
    for bracket in re.finditer(r"\[", text):
        try:
            return json.JSONDecoder().raw_decode(text, bracket.start())[0]
        except ValueError:
            continue  # a bracket of the prose
    return None


def _empty_where_none(text):
    return first_list(text) or []


def _to_the_last_bracket(text):
    start, end = text.find("["), text.rfind("]")
    try:
        return json.loads(text[start : end + 1])
    except ValueError:
        return None


def _first_try(text):
    start = text.find("[")
    try:
        return json.JSONDecoder().raw_decode(text, max(start, 0))[0]
    except ValueError:
        return None


def keep_apart(vectors: np.ndarray, threshold: float) -> list[int]:
    """Row numbers of unit `vectors` that stay, first come first kept."""
    kept = []
    for row, vector in enumerate(vectors):
        if (vectors[kept] @ vector < threshold).all():
            kept.append(row)
    return kept


def _all_before(vectors, threshold):
    rows = range(len(vectors))
    return [n for n in rows if (vectors[:n] @ vectors[n] < threshold).all()]


def _one_before(vectors, threshold):
    rows = range(len(vectors))
    return [n for n in rows if n == 0 or vectors[n - 1] @ vectors[n] < threshold]


def _any_kept(vectors, threshold):
    kept = [0]
    for row in range(1, len(vectors)):
        if (vectors[kept] @ vectors[row] < threshold).any():
            kept.append(row)
    return kept


def _the_dropped(vectors, threshold):
    kept = keep_apart(vectors, threshold)
    return [row for row in range(len(vectors)) if row not in kept]


def _rows(*degrees: float) -> np.ndarray:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1)


EXERCISES = [
    Exercise(
        first_list,
        [
            ('ok: ["a"] done',),
            ("[no] [1]",),
            ("nothing",),
            ("[",),
            ('either ["a"] or ["b"]',),
            ("none: [] left",),
        ],
        {
            "where there is no list the answer is None; [] is a list that was found": (
                _empty_where_none
            ),
            "a bracket of the prose comes first: go on to the next one": _first_try,
            "from the first bracket to the last may be two lists": _to_the_last_bracket,
        },
    ),
    Exercise(
        keep_apart,
        [(_rows(0, 20, 40, 5), 0.9), (_rows(0, 90), 0.5), (_rows(0, 90, 45), 0.6)],
        {
            "a row is compared with rows that were dropped themselves": _all_before,
            "a row is compared with the one before it only": _one_before,
            "a row must be apart from every kept row, not from any": _any_kept,
            "these are the rows that go, not those that stay": _the_dropped,
        },
    ),
]
