"""Page 04: what a column receives, ATA under a mask, and the last token."""

import numpy as np

from exercises import Exercise


def over_even_causal(attention: np.ndarray) -> np.ndarray:
    """What each token receives (n,), over an even causal attention; (heads, n, n)."""
    pairs = np.tri(attention.shape[-1])
    even = (pairs / pairs.sum(1, keepdims=True)).sum(0)
    return attention.mean(0).sum(0) / even


def _even(attention):
    pairs = np.tri(attention.shape[-1])
    return (pairs / pairs.sum(1, keepdims=True)).sum(0)


def masked_ata(attention: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """ATA's weights (n,) from one text's attention (heads, n, n) and mask (n,)."""
    received = np.log1p(mask.sum() * attention).sum(0)
    weights = (received * mask[:, None]).sum(0) * mask
    return weights / weights.sum()


def _ata(count=False, looks=False, wins=False, axis=0, log=np.log1p):
    """A mistaken `masked_ata`: padding in K, in the rows that vote, in the columns."""

    def wrong(attention, mask):
        every = np.ones(len(mask))
        real, rows, columns = (every if own else mask for own in (count, looks, wins))
        received = log(real.sum() * attention).sum(0)
        received = received.T if axis == 1 else received
        weights = (received * rows[:, None]).sum(0) * columns
        return weights / weights.sum()

    return wrong


def last_places(mask: np.ndarray) -> np.ndarray:
    """Place (texts,) of each text's last real token, from a 0/1 mask (texts, n)."""
    return mask.shape[1] - 1 - mask[:, ::-1].argmax(1)


def _attention(seed: int, count: int, causal: bool = False) -> np.ndarray:
    draw = np.random.default_rng(seed)
    made = draw.dirichlet(np.full(count, 0.3), size=(3, count)) + 1e-3
    made = made * np.tri(count) if causal else made
    return made / made.sum(-1, keepdims=True)


EXERCISES = [
    Exercise(
        over_even_causal,
        [(_attention(0, 4, True),), (_attention(1, 6, True),)],
        {
            "these are sums of rows, what each token gives: always 1. What it "
            "receives stands in its column": lambda a: a.mean(0).sum(1) / _even(a),
            "the raw column sums favour the first tokens: divide by what an even "
            "causal attention gives": lambda a: a.mean(0).sum(0),
            "average over heads, so that rows still sum to one": (
                lambda a: a.sum((0, 1)) / _even(a)
            ),
            "a causal row j shares its attention among j tokens, not among all": (
                lambda a: a.mean(0).sum(0) / (np.tri(a.shape[-1]).mean(1)[::-1])
            ),
        },
    ),
    Exercise(
        masked_ata,
        [
            (_attention(2, 6), np.array([1.0, 1, 1, 1, 0, 0])),
            (_attention(3, 5), np.array([0.0, 1, 1, 1, 1])),
        ],
        {
            "padding has a weight of its own: the mask must also hold for columns": (
                _ata(wins=True)
            ),
            "padded tokens vote: the mask must also hold for rows": _ata(looks=True),
            "K counts the padding: only real tokens count": _ata(count=True),
            "the mask is not used": _ata(count=True, looks=True, wins=True),
            "these are sums of rows: sum over the tokens that look, j": _ata(axis=1),
            "the logarithm is missing: log(1 + K a)": _ata(log=np.asarray),
        },
    ),
    Exercise(
        last_places,
        [
            (np.array([[1, 1, 1, 0], [1, 1, 0, 0]]),),
            (np.array([[0, 0, 1, 1], [0, 1, 1, 1], [1, 1, 1, 1]]),),
        ],
        {
            "the number of real tokens less one is the place only where the padding "
            "stands at the right": lambda mask: mask.sum(1) - 1,
            "the last place is a real token only where the padding stands at the "
            "left": lambda mask: np.full(len(mask), mask.shape[1] - 1),
            "this is the first real token": lambda mask: mask.argmax(1),
        },
    ),
]
