"""Page 06: the measure by hand, and why a difference is drawn in pairs."""

import numpy as np

from exercises import Exercise


def ndcg_single(rank: int) -> float:
    """NDCG@10 of a query whose only relevant document is at `rank` (from 1)."""
    return 1 / np.log2(rank + 1) if rank <= 10 else 0.0


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
]
