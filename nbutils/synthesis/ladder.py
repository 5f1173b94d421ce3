"""The ladder of graded negatives: is it in order, is it diverse, does it leak?

Similarities go in as arrays of (examples × 5) cosines, columns P, N1, N2, N3, N4.
`draws` are the `samples` and the `seed` of an interval (`statistics.bootstrap`).
"""

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from itertools import combinations

import numpy as np
import pandas as pd
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from threadpoolctl import threadpool_limits

from nbutils.core.errors import LabError, known
from nbutils.core.records import LEVELS, RUNGS, GradedExample, Rejection
from nbutils.core.statistics import bootstrap, interval
from nbutils.core.text import distinct_n, words

RULES = ("monotone", "positive_first")
"""`monotone`: no inversion at all; `positive_first`: every negative is below P."""


def ladder(similarities):
    """Each example's order, inversions and margin, one row an example.

    `similarities` is (examples × 5): P, N1 … N4. An inversion is a pair of rungs whose
    lower one scores at least as high (Kendall's tau distance, 1938; 0 to 10): a tie
    counts, for an encoder that cannot tell two rungs apart has not ordered them.
    `monotone` is no inversion; `margin` is P − N1 (the rungs are those of Negative
    Matters, MGH; the count is ours).
    """
    scores = np.asarray(similarities, dtype=float)
    higher, lower = np.triu_indices(scores.shape[1], k=1)
    inverted = scores[:, higher] <= scores[:, lower]
    names = np.array(["P", *LEVELS])
    order = names[np.argsort(-scores, axis=1, kind="stable")]
    return pd.DataFrame(
        {
            "order": [" ".join(row) for row in order],
            "inversions": inverted.sum(axis=1),
            "monotone": ~inverted.any(axis=1),
            "margin": scores[:, 0] - scores[:, 1],
        }
    )


def texts_of(examples: Sequence[GradedExample]) -> list[str]:
    """Six texts an example, flat: query, P, N1, N2, N3, N4."""
    return [t for e in examples for t in (e.query, e.positive, *e.negatives)]


def cosines(vectors: np.ndarray, to: str = "query") -> np.ndarray:
    """Cosine of P, N1 … N4 to the query or to the positive: (examples × 5).

    `vectors` are the unit vectors of `texts_of`, (6 · examples, dimension). To the
    positive the first column is 1 by definition.
    """
    blocks = vectors.reshape(-1, 6, vectors.shape[1]).astype(np.float64)
    anchor = blocks[:, {"query": 0, "positive": 1}[to]]
    found = np.einsum("nd,nkd->nk", anchor, blocks[:, 1:])
    if to == "positive":
        found[:, 0] = 1.0
    return found


def summarise(
    similarities: np.ndarray, by: Sequence[str] | None = None, **draws: int
) -> pd.DataFrame:
    """Means with 95 % intervals: columns by, measure, value, low, high, n.

    Measures: the cosine of each rung, "inversions", "monotone" (share), "P above N1"
    (share) and "margin". `by` names each example's group; None takes all as one.
    """
    frame = ladder(similarities)
    frame[list(RUNGS)] = similarities
    frame["P above N1"] = frame["margin"] > 0
    frame["by"] = "all" if by is None else list(by)
    rows = [
        (name, measure, *interval(part[measure], **draws), len(part))
        for name, part in frame.groupby("by", sort=False)
        for measure in (*RUNGS, "inversions", "monotone", "P above N1", "margin")
    ]
    return pd.DataFrame(rows, columns=["by", "measure", "value", "low", "high", "n"])


def in_order(
    examples: Sequence[GradedExample], similarities: np.ndarray, rule: str
) -> tuple[list[GradedExample], list[Rejection]]:
    """The examples whose ladder stands by a rule of RULES, and why the others do not.

    A rejection names the order and the margin (P − N1). LabError for another rule.
    """
    scores, table = np.asarray(similarities, dtype=float), ladder(similarities)
    table["positive_first"] = scores[:, 0] > scores[:, 1:].max(axis=1)
    good = table[known("rule", rule, RULES)]
    rejections = []
    for row in table[~good].itertuples():
        told = f"{rule}: the order is {row.order}, P above N1 by {row.margin:.3f}"
        name = examples[row.Index].id
        rejections.append(Rejection(id=name, reason="ladder", detail=told))
    return [e for e, fine in zip(examples, good, strict=True) if fine], rejections


def compare_diversity(
    one: Mapping[str, Sequence[str]], other: Mapping[str, Sequence[str]], **draws: int
) -> pd.DataFrame:
    """Two generators' texts for the same prompts: how different are each one's own?

    one, other: prompt to the texts written for it; compared are equally many of each,
    on the prompts that both have. Rows distinct_1 to distinct_3 and self_overlap (mean
    Jaccard overlap of two texts' words: lower is more diverse); columns measure, one,
    other, difference, low, high (intervals over prompts).
    """
    both = [(one[name], other[name]) for name in one if name in other]
    pairs = [(a[: len(b)], b[: len(a)]) for a, b in both if a and b]
    if len(pairs) < 2:
        raise LabError("diversity is compared over two prompts or more that both have")
    measures = {f"distinct_{n}": partial(distinct_n, n=n) for n in (1, 2, 3)}
    rows = []
    for name, measure in {**measures, "self_overlap": _self_overlap}.items():
        values = np.array([[measure(texts) for texts in pair] for pair in pairs])
        values = values[np.isfinite(values).all(axis=1)]
        if len(values):
            gain = interval(values[:, 1] - values[:, 0], **draws)
            rows.append((name, *values.mean(axis=0), *gain))
    columns = ["measure", "one", "other", "difference", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def _self_overlap(texts: Sequence[str]) -> float:
    pairs = combinations([set(words(text)) for text in texts], 2)
    overlaps = [len(a & b) / len(a | b) for a, b in pairs if a | b]
    return float(np.mean(overlaps or [np.nan]))


def diversity(
    examples: Sequence[GradedExample], vectors: np.ndarray, **draws: int
) -> pd.DataFrame:
    """How different the texts of a rung are from each other, one row a rung.

    `vectors` as of `cosines`. `distinct_2` and `distinct_3` over all texts of the rung
    (as many for each); `words` is the mean length. `alike` (low, high) is the mean
    cosine of two texts of the same task and rung, averaged over tasks; `minus_P`
    (minus_low, minus_high) its difference to the positives', task by task; nan
    where no task has two examples.
    """
    blocks = vectors.reshape(-1, 6, vectors.shape[1]).astype(np.float64)
    tasks, alike, rows = pd.Series([e.task_id for e in examples]), [], []
    for places in tasks.groupby(tasks).indices.values():
        if (n := len(places)) > 1:  # of unit vectors, each with itself is 1
            total = np.square(blocks[places, 1:].sum(axis=0)).sum(axis=1)
            alike.append((total - n) / (n * (n - 1)))
    positives, *_ = columns = np.reshape(alike, (-1, len(RUNGS))).T
    for place, (rung, own) in enumerate(zip(RUNGS, columns, strict=True), 1):
        texts = texts_of(examples)[place::6]
        distinct = distinct_n(texts, 2), distinct_n(texts, 3)
        length = np.mean([len(words(text)) for text in texts])
        spread = *interval(own, **draws), *interval(own - positives, **draws)
        rows.append((rung, *distinct, length, *spread))
    names = "rung distinct_2 distinct_3 words alike low high minus_P minus_low"
    return pd.DataFrame(rows, columns=[*names.split(), "minus_high"])


def text_only_auc(
    genuine: Iterable[tuple[str, str]],
    negatives: Iterable[tuple[str, str]],
    *,
    kind: str = "words",
    **draws: int,
) -> tuple[float, float, float]:
    """AUC with which negatives are told from genuine texts without any query.

    Each text comes with its item. TF-IDF and logistic regression, scores from 5 folds
    that never split an item; 0.5 is what fair negatives give. Returns (auc, low, high),
    the interval from resampled items. `kind` is "words", or "length" (shorter means
    negative). LabError for fewer than two items.
    """
    genuine, negatives = [*genuine], [*negatives]
    texts, items = np.array(genuine + negatives, dtype=object).reshape(-1, 2).T
    labels = np.repeat([0, 1], [len(genuine), len(negatives)])
    count = len(set(items))
    if count < 2:
        raise LabError("a text-only check needs two items or more: raise max_items")
    if kind == "length":
        scores = np.array([-len(words(text)) for text in texts], dtype=float)
        return auc_interval(labels, scores, items, **draws)
    model = make_pipeline(
        TfidfVectorizer(sublinear_tf=True),
        LogisticRegression(C=10.0, max_iter=300, class_weight="balanced"),
    )
    folds = {"cv": GroupKFold(min(5, count)), "method": "decision_function"}
    with threadpool_limits(1):  # many tiny products: threads only get in the way
        scores = cross_val_predict(model, texts, labels, groups=items, **folds)
    return auc_interval(labels, scores, items, **draws)


def auc_interval(
    labels: np.ndarray, scores: np.ndarray, items: np.ndarray, **draws: int
) -> tuple[float, float, float]:
    """Area under the ROC curve (ties half) with a 95 % interval over items."""
    above, below = scores[labels == 1], scores[labels == 0]
    wins = np.heaviside(above[:, None] - below, 0.5).astype(np.float32)
    _, unit = np.unique(items, return_inverse=True)

    def area(drawn: np.ndarray) -> np.ndarray:
        """A text counts as often as its item was drawn, (..., items)."""
        times = drawn.astype(np.float32)
        up, down = times[..., unit[labels == 1]], times[..., unit[labels == 0]]
        total = np.einsum("...i,...i", up @ wins, down)
        return total / np.maximum(up.sum(-1) * down.sum(-1), 1)

    return bootstrap(area, np.eye(unit.max() + 1), **draws)
