"""Tasks, graded examples and hard negatives that a language model writes.

Prompts are planned as data, answers become checked records, the ladder N1 to N4 is
measured (Negative Matters, MGH; SyNeg).
"""

from nbutils.synthesis.asking import fulfil as fulfil
from nbutils.synthesis.asking import reask as reask
from nbutils.synthesis.generate import brainstorm as brainstorm
from nbutils.synthesis.generate import counts as counts
from nbutils.synthesis.generate import graded_examples as graded_examples
from nbutils.synthesis.generate import open_client as open_client
from nbutils.synthesis.generate import retrieval_items as retrieval_items
from nbutils.synthesis.generate import syneg_examples as syneg_examples
from nbutils.synthesis.judge import agreement as agreement
from nbutils.synthesis.judge import judge_cost as judge_cost
from nbutils.synthesis.judge import judge_request as judge_request
from nbutils.synthesis.judge import judge_requests as judge_requests
from nbutils.synthesis.judge import share_answering as share_answering
from nbutils.synthesis.judge import unanswered as unanswered
from nbutils.synthesis.ladder import RULES as RULES
from nbutils.synthesis.ladder import RUNGS as RUNGS
from nbutils.synthesis.ladder import compare_diversity as compare_diversity
from nbutils.synthesis.ladder import cosines as cosines
from nbutils.synthesis.ladder import diversity as diversity
from nbutils.synthesis.ladder import in_order as in_order
from nbutils.synthesis.ladder import summarise as summarise
from nbutils.synthesis.ladder import text_only_auc as text_only_auc
from nbutils.synthesis.ladder import texts_of as texts_of
from nbutils.synthesis.overlap import near_duplicates as near_duplicates
from nbutils.synthesis.overlap import shared_runs as shared_runs
from nbutils.synthesis.parsing import REASONS as REASONS
from nbutils.synthesis.parsing import SYNEG as SYNEG
from nbutils.synthesis.parsing import find_json as find_json
from nbutils.synthesis.parsing import parse as parse
from nbutils.synthesis.plan import brainstorm_requests as brainstorm_requests
from nbutils.synthesis.plan import mgh_request as mgh_request
from nbutils.synthesis.plan import recording_plan as recording_plan
from nbutils.synthesis.plan import syneg_requests as syneg_requests
from nbutils.synthesis.recording import estimate as estimate
from nbutils.synthesis.replies import LEVEL_NAMES as LEVEL_NAMES
