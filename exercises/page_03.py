"""Pages 03 and 03b: ceilings, the cut, several positives, the draw."""

import numpy as np

from exercises import Exercise


def perc_ceiling(positive_score: float, perc: float) -> float:
    """The score that a negative must stay below, under PercPos."""
    return positive_score - (1 - perc) * abs(positive_score)


def first_below(scores: np.ndarray, ceiling: float, k: int) -> np.ndarray:
    """Places of the k highest scores strictly below the ceiling; scores are sorted."""
    return np.flatnonzero(scores < ceiling)[:k]


def ignored(scores: np.ndarray, positive: float) -> np.ndarray:
    """True where a candidate is not below PercPos's ceiling at 95 %."""
    return scores >= perc_ceiling(positive, 0.95)


def safe_anchor(positive_scores: np.ndarray) -> float:
    """The one positive score whose ceiling lies under all the others'."""
    return positive_scores.min()


def gumbel_draw(
    scores: np.ndarray, temperature: float, uniform: np.ndarray, k: int
) -> np.ndarray:
    """Places of k draws without replacement by the softmax of scores / temperature."""
    keys = scores / temperature - np.log(-np.log(uniform))
    return np.argsort(-keys)[:k]


SORTED = np.array([0.9, 0.8, 0.7, 0.6, 0.5, 0.4])
AROUND = np.array([0.9, 0.5, 0.79, 0.1, 0.8])
SCORES, UNIFORM = np.array([0.7, 0.6, 0.5, 0.3]), np.array([0.6, 0.2, 0.9, 0.5])

EXERCISES = [
    Exercise(
        perc_ceiling,
        [(0.8, 0.95), (0.0, 0.95), (-0.2, 0.95), (0.5, 0.8)],
        {
            "a negative score times perc is higher than the score: take a distance": (
                lambda score, perc: perc * score
            ),
            "that is MarginPos, the same distance below every positive": (
                lambda score, perc: score - (1 - perc)
            ),
            "that distance is added: the ceiling must lie below the positive": (
                lambda score, perc: score + (1 - perc) * abs(score)
            ),
        },
    ),
    Exercise(
        first_below,
        [(SORTED, 0.7, 2), (SORTED, 0.95, 3), (SORTED, 0.3, 2)],
        {
            "the first k are cut before the filter": (
                lambda scores, ceiling, k: np.flatnonzero(scores[:k] < ceiling)
            ),
            "a score equal to the ceiling is not below it": (
                lambda scores, ceiling, k: np.flatnonzero(scores <= ceiling)[:k]
            ),
            "these are the scores: give back their places": (
                lambda scores, ceiling, k: scores[scores < ceiling][:k]
            ),
        },
    ),
    Exercise(
        ignored,
        [(AROUND, 0.8), (AROUND - 1, -0.2), (np.array([0.76, 0.75]), 0.8)],
        {
            "this keeps the likely answers and ignores the rest, as the loss did": (
                lambda scores, positive: scores < perc_ceiling(positive, 0.95)
            ),
            "for a negative positive, 0.95 times it lies above it": (
                lambda scores, positive: scores >= 0.95 * positive
            ),
            "what scores just under the positive is likely an answer too": (
                lambda scores, positive: scores >= positive
            ),
        },
    ),
    Exercise(
        safe_anchor,
        [(np.array([0.6, 0.5, 0.8]),), (np.array([-0.1, -0.3]),)],
        {
            "the highest positive lets through what beats the others": np.max,
            "that is the first positive, wherever it scores": lambda scores: scores[0],
            "-0.3 is the lower score, though its size is larger": (
                lambda scores: scores[np.abs(scores).argmin()]
            ),
            "below the mean's ceiling is not below every positive's": np.mean,
        },
    ),
    Exercise(
        gumbel_draw,
        [(SCORES, 1.0, UNIFORM, 2), (SCORES, 0.05, UNIFORM, 3)],
        {
            "no noise is added: that is the top, not a draw": (
                lambda scores, temperature, uniform, k: np.argsort(-scores)[:k]
            ),
            "the noise is minus the logarithm of minus the logarithm": (
                lambda scores, temperature, uniform, k: np.argsort(
                    -(scores / temperature + np.log(-np.log(uniform)))
                )[:k]
            ),
            "the temperature divides the scores alone": (
                lambda scores, temperature, uniform, k: np.argsort(
                    -((scores - np.log(-np.log(uniform))) / temperature)
                )[:k]
            ),
        },
    ),
]
