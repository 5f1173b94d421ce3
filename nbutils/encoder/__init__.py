"""Text to vector: the student in 4 bits with LoRA, its template, attention, pooling.

ATA pooling weighs tokens by the attention they receive (Negative Matters).
"""

from nbutils.encoder.anchor_statistics import anchor_table as anchor_table
from nbutils.encoder.anchor_statistics import by_layer as by_layer
from nbutils.encoder.anchor_statistics import class_means as class_means
from nbutils.encoder.anchor_statistics import even_causal as even_causal
from nbutils.encoder.anchor_statistics import inspect as inspect
from nbutils.encoder.anchor_statistics import pool as pool
from nbutils.encoder.anchor_statistics import relative_attention as relative_attention
from nbutils.encoder.anchor_statistics import unrelated_cosine as unrelated_cosine
from nbutils.encoder.student import build_student as build_student
from nbutils.encoder.student import export_student as export_student
from nbutils.encoder.student import load_encoder as load_encoder
from nbutils.encoder.student import load_student as load_student
from nbutils.encoder.vectors import embed as embed
