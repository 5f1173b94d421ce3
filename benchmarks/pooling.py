"""What ATA costs: against a mean, against attention matrices, against plain encode."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from benchmarks.harness import Row, in_process, measured, row, timed_row
from benchmarks.training import peer_model
from nbutils.core.records import read_records
from nbutils.core.sections import MINILM, SMOLLM2
from nbutils.core.settings import resolve
from nbutils.encoder.pooling import ata_weights
from nbutils.encoder.student import build_student

LENGTHS = (64, 128, 256, 512)
TOKENS = 2048
"""Tokens of a timed batch, and of the one text whose memory is compared."""
KEEP = {"MALLOC_TRIM_THRESHOLD_": str(2**30), "MALLOC_MMAP_THRESHOLD_": str(2**30)}
"""Lets glibc keep freed memory. Else each pass asks for its large tensors again, and
the page faults, more or fewer from process to process, cost more than pooling does."""
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": "65536"}
"""Lets it give large blocks back at once: steadier peaks."""
WHOLE = {"quantization": "none", "compute_dtype": "float32"}
STUDENTS = {"minilm": {"student": MINILM, **WHOLE}, "llm": {"student": SMOLLM2}}
Changes = Mapping[str, Any]
"""Settings by name: they say which student."""
Features = dict[str, torch.Tensor]


def forward_of(way: str, changes: Changes) -> Callable[[Features], torch.Tensor]:
    """From features to text vectors by `mean`, `ata`, or ATA from `matrices`.

    Adapters, still zero, are left out where the weights are whole: one serves so.
    """
    pooling = "mean" if way == "mean" else "ata"
    settings = resolve(overrides={**changes, "pooling": pooling})
    student = build_student(settings).eval()
    if settings.encoder.quantization == "none":
        student[0].model.disable_adapters()
    if way != "matrices":
        return lambda features: student(dict(features))["sentence_embedding"]
    model = student[0].model
    model.set_attn_implementation("eager")

    def from_matrices(features: Features) -> torch.Tensor:
        mask = features["attention_mask"]
        output = model(features["input_ids"], mask, output_attentions=True)
        weights = ata_weights(output.attentions[-1], mask)
        vectors = torch.einsum("bt,btd->bd", weights, output.last_hidden_state)
        return torch.nn.functional.normalize(vectors, dim=-1)

    return from_matrices


def features_of(texts: int, length: int) -> Features:
    """Random token ids (texts, length) and masks without padding."""
    ids = torch.randint(5, 1000, (texts, length))
    mask = torch.ones_like(ids)
    return {"input_ids": ids, "attention_mask": mask, "pooling_mask": mask}


@torch.inference_mode()
def timed_rows(
    name: str, way: str, peer: str, changes: Changes,
    lengths: Sequence[int] = LENGTHS, repeats: int = 10,
) -> list[Row]:  # fmt: skip
    """Rows `name length`: seconds of a batch by one way of `forward_of`; and a peer."""
    ways, rows = [forward_of(chosen, changes) for chosen in (way, peer)], []
    for length in lengths:
        batch = features_of(TOKENS // length, length)
        pair = (partial(forward, batch) for forward in ways)
        rows.append(timed_row(f"{name} {length}", *pair, repeats))
    return rows


@torch.inference_mode()
def memory_of(way: str, changes: Changes, length: int) -> float:
    """MB that encoding one text needs at its peak beyond what stood before it."""
    return measured(partial(forward_of(way, changes), features_of(1, length))).more


def memory_row(kind: str, changes: Changes) -> Row:
    """Row `memory_vs_eager`: MB over a mean's peak with ATA; peer: with matrices."""
    mean, ata, matrices = (
        in_process(memory_of, way, changes, TOKENS, **GIVE_BACK)
        for way in ("mean", "ata", "matrices")
    )
    name = f"memory_vs_eager {kind} {TOKENS}"
    return row(name, max(0.0, ata - mean), "MB", matrices - mean)


def throughput_row(changes: Changes, name: str, count: int = 96) -> Row:
    """Texts a second through `encode` with ATA; peer: the library's modules, a mean.

    Both have the settings' backbone and adapters.
    """
    items = read_records(resolve()).items
    texts = [text for item in items for text in item.positives][:count]
    settings = resolve(overrides={"pooling": "ata", **changes})
    models = build_student(settings), peer_model(settings)
    ways = (partial(model.encode, texts, show_progress_bar=False) for model in models)
    seconds = timed_row("", *ways, 5)
    rate, peer = (len(texts) / seconds[side] for side in ("value", "peer"))
    return row(name, rate, "texts a second", peer)


def rows(out: str) -> list[Row]:
    """The suite `pooling`; what is timed runs in processes that keep their memory."""
    found = [memory_row("llm", STUDENTS["llm"])]  # MiniLM takes no text so long
    for kind, changes in STUDENTS.items():
        ata = f"ata_vs_mean {kind}", "ata", "mean", changes
        eager = f"eager_vs_ata {kind}", "matrices", "ata", changes, LENGTHS[-1:], 5
        found += in_process(timed_rows, *ata, **KEEP)
        found += in_process(timed_rows, *eager, **KEEP)
        name = "throughput_vs_st" + "_llm" * (kind == "llm")
        found.append(in_process(throughput_row, changes, name, **KEEP))
    return found
