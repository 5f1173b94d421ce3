"""Weights to scores: mteb tasks from held-out sets, paired differences, studies."""

from nbutils.evaluation.scores import BM25Search as BM25Search
from nbutils.evaluation.scores import CachedEncoder as CachedEncoder
from nbutils.evaluation.scores import beats_n1 as beats_n1
from nbutils.evaluation.scores import development as development
from nbutils.evaluation.scores import evaluate as evaluate
from nbutils.evaluation.scores import ndcg_per_query as ndcg_per_query
from nbutils.evaluation.scores import set_scores as set_scores
from nbutils.evaluation.studies import compare as compare
from nbutils.evaluation.studies import difference as difference
from nbutils.evaluation.studies import read_claims as read_claims
from nbutils.evaluation.studies import read_study as read_study
from nbutils.evaluation.studies import settings_of as settings_of
from nbutils.evaluation.tasks import local_tasks as local_tasks
from nbutils.evaluation.tasks import named_tasks as named_tasks
