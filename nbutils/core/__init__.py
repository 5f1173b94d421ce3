"""What every room shares: settings, records, files, retrieval sets, statistics.

Nothing here knows of a model. `LabError` is the one error that users read, and every
setting has its name, unit, default and source in `fields`.
"""

from nbutils.core.errors import LabError as LabError
from nbutils.core.errors import nearest as nearest
from nbutils.core.files import read_table as read_table
from nbutils.core.files import write_jsonl as write_jsonl
from nbutils.core.files import write_table as write_table
from nbutils.core.records import LEVELS as LEVELS
from nbutils.core.records import RECORDS as RECORDS
from nbutils.core.records import Records as Records
from nbutils.core.records import read_records as read_records
from nbutils.core.retrieval import HELD_OUT as HELD_OUT
from nbutils.core.retrieval import local_set as local_set
from nbutils.core.retrieval import passages as passages
from nbutils.core.settings import DATA as DATA
from nbutils.core.settings import resolve as resolve
from nbutils.core.statistics import in_words as in_words
from nbutils.core.statistics import interval as interval
from nbutils.core.statistics import paired_difference as paired_difference
from nbutils.core.statistics import unit_of as unit_of
from nbutils.core.text import distinct_n as distinct_n
from nbutils.core.text import words as words
