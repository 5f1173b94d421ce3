"""Made-up training instances, for all test files of this folder."""

from nbutils.core.records import TrainingInstance


def instance(number: int, **changes) -> TrainingInstance:
    """An instance with four graded and four retrieved negatives."""
    graded = {f"N{k}": f"negative {k} of {number}" for k in (1, 2, 3, 4)}
    base = {
        "id": f"q{number}", "dataset": "mgh/sts", "instruction": "Find it",
        "query": f"query {number}", "positive": f"positive {number}", "graded": graded,
        "retrieved": tuple(f"found {k} for {number}" for k in range(4)),
    }  # fmt: skip
    return TrainingInstance(**{**base, **changes})
