"""Text to vector: the student in 4 bits with LoRA, its template, attention, pooling.

ATA pooling weighs tokens by the attention they receive (Negative Matters).
"""

from nbutils.encoder.anchor_statistics import (
    anchor_table,
    by_layer,
    class_means,
    even_causal,
    inspect,
    pool,
    relative_attention,
    unrelated_cosine,
)
from nbutils.encoder.student import (
    build_student,
    export_student,
    load_encoder,
    load_student,
)
from nbutils.encoder.vectors import embed
