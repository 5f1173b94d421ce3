"""What the pretrained decoder is worth, stage by stage, beside n-grams and MiniLM.

`--out` names the folder that `python -m nbutils pretrain` wrote (or its parent, where
it is called `decoder`). The environment's SCIFACT names a folder with SciFact in BEIR's
layout; without it those rows are left out, and a line says so.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from nbutils import anatomy, beir, corpora, decoder, encoder, synthesis
from nbutils.anatomy import Collection
from nbutils.bench import Row, row
from nbutils.errors import LabError
from nbutils.evaluation import local_set
from nbutils.settings import MINILM, ROOT, resolve
from nbutils.stages import STAGES

HELD_OUT = "held-out-tasks"
ROWS = 400
"""Rows of validation text that losses are the mean of."""
TEXTS = 300
"""Texts that attention received is the mean of."""
SHOWN = ("last", "mean", "ata")
BASE = "mean both ways"
LAST_LAYERS = 3
PROMPT = "The sun is"


def work_folder(out: str | Path) -> Path:
    """The folder of a pretraining. LabError that says which command makes one."""
    for folder in (Path(ROOT, out), Path(ROOT, out, "decoder")):
        if any((folder / name / "stage.json").is_file() for name in STAGES):
            return folder
    raise LabError(
        f"{out} holds no pretrained decoder: first 'python -m nbutils pretrain "
        f"--text FOLDER --out {Path(out, 'decoder')}'"
    )


def done(folder: Path) -> dict[str, dict]:
    """Stage name to its card, of the stages that are done, in their order."""
    paths = {name: folder / name / "stage.json" for name in STAGES}
    return {
        name: json.loads(path.read_text(encoding="utf-8"))
        for name, path in paths.items()
        if path.is_file()
    }


def held_out() -> Collection:
    """The recordings' held-out tasks as a retrieval set."""
    found = synthesis.load(resolve())
    data = local_set(HELD_OUT, found.graded, found.items)
    return Collection(HELD_OUT, data.queries, data.documents, data.qrels)


def scifact() -> Collection | None:
    """SciFact, where the environment says that it is; a line on stderr if not."""
    folder = os.environ.get("SCIFACT")
    if not folder:
        print("SCIFACT is not set to a folder: its rows are left out", file=sys.stderr)
        return None
    data = beir.read_set(folder, "test")
    texts = dict(zip(data.corpus["id"], data.corpus["text"], strict=True))
    # SciFact's judgements are all of one grade
    qrels = {query: dict.fromkeys(own, 1) for query, own in data.positives.items()}
    return Collection(data.name, data.queries, texts, qrels)


def minilm(data: Collection, max_length: int) -> pd.Series:
    """MiniLM's NDCG@10 of every query, by the same code."""
    settings = resolve(overrides={"max_length": max_length})
    model = encoder.load_encoder(settings, MINILM)
    queries = encoder.embed(model, list(data.queries.values()), settings)
    documents = encoder.embed(model, list(data.documents.values()), settings)
    return anatomy.ndcg(queries, documents, data)


def losses(folder: Path) -> list[Row]:
    """Loss of stage lm beside n-grams of as many tokens and of all; prints text."""
    model, tokenizer = decoder.load_decoder(folder / "lm" / "model")
    train = corpora.packed(folder / "tokens", "train")
    held = corpora.packed(folder / "tokens", "validation")
    made = done(folder)["lm"]
    rows: list[Row] = []
    counts = {"the tokens seen": min(made["tokens"], len(train)), "all": len(train)}
    for name, count in counts.items():
        table = anatomy.losses(
            model, train[:count], held, made["settings"]["length"], ROWS
        )
        found = table.set_index("model").loss
        rows += [
            row(f"loss, beside a {peer} of {name}", found["decoder"], "nats a token",
                found[peer])
            for peer in ("unigram", "trigram")
        ]  # fmt: skip
    text = anatomy.sample(model, tokenizer, PROMPT)
    print(f"sample of lm: {' '.join(text.split())}", file=sys.stderr)
    return rows


def sinks(folder: Path, stage: str, texts: Sequence[str]) -> list[Row]:
    """Attention received by each class of token in the last layers of a stage."""
    both = STAGES[stage].bidirectional
    table = anatomy.sinks(folder / stage / "model", texts, bidirectional=both)
    rows = []
    for layer in sorted(table["layer"].unique())[-LAST_LAYERS:]:
        for line in table[table["layer"] == layer].to_dict("records"):
            name = f"{stage}, layer {layer}, {line['class']}"
            for part, what in (("mean", name), ("low", f"{name}, low"),
                               ("high", f"{name}, high")):  # fmt: skip
                rows.append(row(what, line[part], "of the mean token"))
    return rows


def by_stage(folder: Path, stage: str, data: Collection, peer, length: int):
    """NDCG@10 of a stage in its own direction of attention, by pooling."""
    both = STAGES[stage].bidirectional
    found = anatomy.retrieval(
        folder / stage / "model", data, bidirectional=both, max_length=length
    )
    return [
        row(f"{data.name}, {stage}, {mode}", float(found[mode].mean()), "NDCG@10", peer)
        for mode in SHOWN
    ]


def grid(folder: Path, stage: str, data: Collection, peer, length: int) -> list[Row]:
    """NDCG@10 of pooling by direction, and paired differences from the mean."""
    scores = {}
    for both in (False, True):
        found = anatomy.retrieval(
            folder / stage / "model", data, bidirectional=both, max_length=length
        )
        way = "both ways" if both else "causal"
        scores |= {f"{mode} {way}": found[mode] for mode in SHOWN}
    rows = []
    for line in anatomy.against(scores, BASE).to_dict("records"):
        name = f"{data.name}, {stage}, {line['kind']}"
        rows.append(row(name, line["score"], "NDCG@10", peer))
        if line["kind"] != BASE:
            for part in ("difference", "low", "high"):
                rows.append(row(f"{name}: {part} to {BASE}", line[part], "NDCG@10"))
    return rows


def rows(out: str = "runs", profile: str = "workshop") -> list[Row]:
    """Loss beside n-grams, attention sinks, NDCG@10 by stage, pooling and direction."""
    folder = work_folder(out)
    stages, length = list(done(folder)), resolve(profile).max_length
    own, public = held_out(), scifact()
    made = losses(folder) if "lm" in stages else []
    texts = list(own.documents.values())[:TEXTS]
    for stage in dict.fromkeys([*stages[:1], stages[-1]]):
        made += sinks(folder, stage, texts)
    for data in filter(None, (own, public)):
        peer = float(minilm(data, length).mean())
        made.append(row(f"{data.name}, MiniLM", peer, "NDCG@10"))
        if data is own:
            for stage in stages[:-1]:
                made += by_stage(folder, stage, data, peer, length)
        made += grid(folder, stages[-1], data, peer, length)
    return made
