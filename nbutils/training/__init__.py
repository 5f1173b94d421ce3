"""Negatives to weights: curriculum, mixing, loss, GradCache, the resumable loop.

Levels in order (Negative Matters), synthetic and retrieved negatives (SyNeg).
"""

from nbutils.training.curriculum import batches
from nbutils.training.footprint import MISTRAL_7B, knob_table, measurements
from nbutils.training.gradcache import backward, make_batch
from nbutils.training.instances import MINED, set_instances, training_data
from nbutils.training.loop import save_run, train
from nbutils.training.mixing import negatives_for
