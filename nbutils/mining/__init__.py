"""Candidates to negatives: teachers, filters, selections, ensembles, and the audit.

Every method of NV-Retriever is a filter over one stored candidate table. A teacher
scores a set once (`Search`), `prepare` says what can never be a negative, `mine` takes
the settings' section `mining` as its recipe, and `check_mined` audits what leaves.
"""

from nbutils.mining.audit import (
    check_mined,
    false_negatives,
    hardness,
    rate,
    reduction,
)
from nbutils.mining.candidates import Search, search_stored
from nbutils.mining.ensembles import cross_sample, intra_sample, jaccard
from nbutils.mining.exclusion import prepare
from nbutils.mining.formats import training_rows
from nbutils.mining.methods import METHODS, SELECTIONS, mine, mine_until_full
from nbutils.mining.miner import mine_by_settings, training_set
from nbutils.mining.rescoring import load_rescorer
from nbutils.mining.teachers import EncoderTeacher, RandomTeacher, load_teachers
