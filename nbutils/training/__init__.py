"""Negatives to weights: curriculum, mixing, loss, GradCache, the resumable loop.

Levels in order (Negative Matters), synthetic and retrieved negatives (SyNeg).
"""

from nbutils.training.curriculum import batches as batches
from nbutils.training.footprint import MISTRAL_7B as MISTRAL_7B
from nbutils.training.footprint import knob_table as knob_table
from nbutils.training.footprint import measurements as measurements
from nbutils.training.gradcache import backward as backward
from nbutils.training.gradcache import make_batch as make_batch
from nbutils.training.instances import MINED as MINED
from nbutils.training.instances import set_instances as set_instances
from nbutils.training.instances import training_data as training_data
from nbutils.training.loop import save_run as save_run
from nbutils.training.loop import train as train
from nbutils.training.mixing import negatives_for as negatives_for
