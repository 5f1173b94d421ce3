"""Tasks, graded examples and hard negatives that a language model writes.

Prompts are planned as data, answers become checked records, the ladder N1 to N4 is
measured (Negative Matters, MGH; SyNeg).
"""

from nbutils.synthesis.from_sets import seeded_requests
from nbutils.synthesis.generate import (
    brainstorm,
    counts,
    fulfil,
    graded_examples,
    open_client,
    reask,
    retrieval_items,
    syneg_examples,
)
from nbutils.synthesis.judge import (
    agreement,
    judge_cost,
    judge_requests,
    share_answering,
)
from nbutils.synthesis.ladder import (
    RULES,
    RUNGS,
    compare_diversity,
    cosines,
    diversity,
    in_order,
    summarise,
    text_only_auc,
    texts_of,
)
from nbutils.synthesis.overlap import near_duplicates, shared_runs
from nbutils.synthesis.prompts import (
    brainstorm_requests,
    mgh_request,
    recording_plan,
    syneg_requests,
)
from nbutils.synthesis.recording import estimate
from nbutils.synthesis.replies import LEVEL_NAMES, REASONS, find_json, parse
from nbutils.synthesis.second_generator import second_answers
