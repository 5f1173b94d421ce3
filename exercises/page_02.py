"""Page 02: ladders in disorder, a filter for them, and a leak as a probability."""

import numpy as np

from exercises import Exercise


def adjacent_inversions(similarities: np.ndarray) -> np.ndarray:
    """Inverted neighbours per example, from an (examples × 5) array."""
    return (similarities[:, :-1] <= similarities[:, 1:]).sum(axis=1)


def _all_pairs(similarities):
    upper, lower = np.triu_indices(similarities.shape[1], k=1)
    return (similarities[:, upper] <= similarities[:, lower]).sum(axis=1)


def keep_clear(similarities: np.ndarray, margin: float) -> np.ndarray:
    """Boolean mask of the examples whose positive is clear of every negative."""
    return similarities[:, 0] - similarities[:, 1:].max(axis=1) >= margin


def auc_by_counting(positives: np.ndarray, negatives: np.ndarray) -> float:
    """Probability that a negative's value is above a positive's; ties half."""
    above = negatives[:, None] > positives[None, :]
    equal = negatives[:, None] == positives[None, :]
    return (above + 0.5 * equal).mean()


LADDERS = np.array([[5, 4, 3, 2, 1], [1, 2, 3, 4, 5], [5, 3, 4, 4, 1], [5, 1, 2, 3, 0]])
CLOSE = np.array(
    [
        [0.9, 0.5, 0.4, 0.3, 0.2],
        [0.9, 0.5, 0.4, 0.95, 0.2],
        [0.55, 0.5, 0.4, 0.3, 0.2],
        [0.75, 0.5, 0.25, 0.25, 0.0],  # exactly a margin of 0.25
    ]
)

EXERCISES = [
    Exercise(
        adjacent_inversions,
        [(LADDERS.astype(float),), (LADDERS[::-1] / 4,)],
        {
            "a tie is an inversion, too": lambda s: (s[:, :-1] < s[:, 1:]).sum(axis=1),
            "these are all ten pairs, not the four pairs of neighbours": _all_pairs,
            "this counts the neighbours that stand in order": lambda s: (
                s[:, :-1] > s[:, 1:]
            ).sum(axis=1),
            "one number an example: sum over the second axis": lambda s: (
                s[:, :-1] <= s[:, 1:]
            ).sum(axis=0),
        },
    ),
    Exercise(
        keep_clear,
        [(CLOSE, 0.1), (CLOSE, 0.25), (CLOSE, 0.3)],
        {
            "this compares with N1 only, and another negative scores higher": (
                lambda s, margin: s[:, 0] - s[:, 1] >= margin
            ),
            "the margin is not used": lambda s, margin: s[:, 0] > s[:, 1:].max(axis=1),
            "at least the margin: a difference of just the margin is kept": (
                lambda s, margin: s[:, 0] - s[:, 1:].max(axis=1) > margin
            ),
            "every negative must be clear, not their mean": lambda s, margin: (
                s[:, 0] - s[:, 1:].mean(axis=1) >= margin
            ),
        },
    ),
    Exercise(
        auc_by_counting,
        [
            (np.array([1.0, 2.0, 3.0]), np.array([2.0, 3.0, 4.0, 5.0])),
            (np.array([1.0, 1.0]), np.array([1.0])),
            (np.array([2.0, 0.0]), np.array([1.0, 0.0, 0.0])),
        ],
        {
            "a tie counts half, not nothing": lambda p, n: (n[:, None] > p).mean(),
            "a tie counts half, not whole": lambda p, n: (n[:, None] >= p).mean(),
            "this is how often the positive is higher: the other way round": (
                lambda p, n: auc_by_counting(n, p)
            ),
            "all pairs are compared, not the two means": (
                lambda p, n: float(n.mean() > p.mean())
            ),
        },
    ),
]
