"""Page 06: the measure by hand, pairs, and many comparisons."""

import numpy as np

from exercises import Exercise


def ndcg_single(rank: int) -> float:
    """NDCG@10 of a query whose only relevant document is at `rank` (from 1)."""
    return 1 / np.log2(rank + 1) if rank <= 10 else 0.0


def paired_error(before: list[float], after: list[float]) -> float:
    """Standard error of mean(after − before), the queries paired."""
    difference = np.asarray(after) - np.asarray(before)
    return np.std(difference, ddof=1) / np.sqrt(len(difference))


def unpaired_error(before, after):
    return np.sqrt(
        np.var(before, ddof=1) / len(before) + np.var(after, ddof=1) / len(after)
    )


def holm(p: list[float]) -> list[float]:
    """Holm's adjusted p-values, in the given order, at most 1."""
    p = np.asarray(p, float)
    order = np.argsort(p)
    steps = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return list(np.minimum(1, steps)[np.argsort(order)])


def holm_sorted(p):
    return sorted(holm(p))


def holm_falling(p):
    p = np.asarray(p, float)
    ranks = np.argsort(np.argsort(p))
    return list(np.minimum(1, p * (len(p) - ranks)))


SCORES = ([0.1, 0.5, 0.9, 0.4], [0.2, 0.6, 1.0, 0.7])
EXERCISES = [
    Exercise(
        ndcg_single,
        [(1,), (3,), (10,), (11,)],
        {
            "below rank 10 nothing counts": lambda rank: 1 / np.log2(rank + 1),
            "1/rank is the reciprocal rank (MRR); NDCG takes 1 / log2(rank + 1)": (
                lambda rank: 1 / rank if rank <= 10 else 0.0
            ),
            "the logarithm is of rank + 1": lambda rank: (
                0.0 if rank > 10 else 1 / np.log2(rank) if rank > 1 else 1.0
            ),
        },
    ),
    Exercise(
        paired_error,
        [SCORES, (SCORES[1], SCORES[0][::-1])],
        {
            "added variances forget that both models answered the same queries": (
                unpaired_error
            ),
            "that is the spread of single queries; the mean's is √n times smaller": (
                lambda before, after: np.std(np.subtract(after, before), ddof=1)
            ),
            "with n − 1 in the variance: ddof=1": lambda before, after: (
                np.std(np.subtract(after, before)) / np.sqrt(len(before))
            ),
        },
    ),
    Exercise(
        holm,
        [([0.04, 0.01, 0.03],), ([0.5, 0.6],), ([0.02, 0.021, 0.022, 0.9],)],
        {
            "multiplying every p by their number is Bonferroni's": lambda p: [
                min(1.0, len(p) * value) for value in p
            ],
            "give them back in the order in which they came": holm_sorted,
            "a larger p may not end below a smaller one": holm_falling,
        },
    ),
]
