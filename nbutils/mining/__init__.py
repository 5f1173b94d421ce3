"""Candidates to negatives: teachers, filters, selections, ensembles, and the audit.

Every method of NV-Retriever is a filter over one stored candidate table. A teacher
scores a set once (`Search`), `prepare` says what can never be a negative, `mine` takes
the settings' section `mining` as its recipe, and `check_mined` audits what leaves.
"""

from nbutils.mining.audit import check_mined as check_mined
from nbutils.mining.audit import false_negatives as false_negatives
from nbutils.mining.audit import hardness as hardness
from nbutils.mining.audit import rate as rate
from nbutils.mining.audit import reduction as reduction
from nbutils.mining.candidates import Search as Search
from nbutils.mining.candidates import search_stored as search_stored
from nbutils.mining.ensembles import cross_sample as cross_sample
from nbutils.mining.ensembles import intra_sample as intra_sample
from nbutils.mining.ensembles import jaccard as jaccard
from nbutils.mining.exclusion import prepare as prepare
from nbutils.mining.methods import METHODS as METHODS
from nbutils.mining.methods import SELECTIONS as SELECTIONS
from nbutils.mining.methods import mine as mine
from nbutils.mining.methods import mine_until_full as mine_until_full
from nbutils.mining.rescoring import load_rescorer as load_rescorer
from nbutils.mining.teachers import EncoderTeacher as EncoderTeacher
from nbutils.mining.teachers import RandomTeacher as RandomTeacher
from nbutils.mining.teachers import load_teachers as load_teachers
