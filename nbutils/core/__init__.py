"""What every room shares: settings, records, files, retrieval sets, statistics."""

from nbutils.core.errors import LabError, known
from nbutils.core.files import (
    read_jsonl,
    read_table,
    verify,
    write_jsonl,
    write_table,
)
from nbutils.core.records import LEVELS, RECORDS, GradedExample, Records, read_records
from nbutils.core.retrieval import (
    HELD_OUT,
    RetrievalSet,
    ladder_ids,
    local_set,
    passages,
    read_set,
)
from nbutils.core.settings import DATA, resolve
from nbutils.core.statistics import in_words, interval, paired_difference, unit_of
from nbutils.core.text import distinct_n, words
