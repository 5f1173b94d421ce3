"""Weights to scores: mteb tasks from held-out sets, paired differences, studies."""

from nbutils.evaluation.scores import (
    BM25Search,
    CachedEncoder,
    development,
    evaluate,
    ndcg_per_query,
    set_scores,
)
from nbutils.evaluation.studies import (
    compare,
    difference,
    read_claims,
    read_study,
    settings_of,
)
from nbutils.evaluation.tasks import local_tasks, named_tasks
