"""What the pretrained decoder is worth, stage by stage, beside n-grams and MiniLM.

`--out` names the folder that `python -m nbutils pretrain` wrote (or its parent, where
it is called `decoder`). The environment's SCIFACT names a folder with SciFact in BEIR's
layout; without it those rows are left out, and a line says so.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from nbutils import anatomy, corpora, decoder, encoder, synthesis
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
    return anatomy.beir(folder)


def minilm(data: Collection, max_length: int) -> pd.Series:
    """MiniLM's NDCG@10 of every query, by the same code."""
    settings = resolve(overrides={"max_length": max_length})
    model = encoder.load_encoder(settings, MINILM)
    queries = encoder.embed(model, list(data.queries.values()), settings)
    documents = encoder.embed(model, list(data.documents.values()), settings)
    return anatomy.ndcg(queries, documents, data)


def _losses(folder: Path, cards: Mapping[str, dict]) -> list[Row]:
    model, tokenizer = decoder.load_decoder(folder / "lm" / "model")
    train = corpora.packed(folder / "tokens", "train")
    held = corpora.packed(folder / "tokens", "validation")
    length, seen = cards["lm"]["settings"]["length"], cards["lm"]["tokens"]
    rows: list[Row] = []
    for name, count in (("the tokens seen", seen), ("all tokens", len(train))):
        table = anatomy.losses(model, train[:count], held, length, ROWS)
        found = table.set_index("model").loss
        for peer in ("unigram", "trigram"):
            rows.append(
                row(f"loss beside a {peer} of {name}", found["decoder"], "nats a token",
                    found[peer])
            )  # fmt: skip
    text = anatomy.sample(model, tokenizer, PROMPT)
    print(f"sample of lm: {' '.join(text.split())}", file=sys.stderr)
    return rows


def _sinks(folder: Path, stage: str, data: Collection) -> list[Row]:
    texts = list(data.documents.values())[:TEXTS]
    both = STAGES[stage].bidirectional
    table = anatomy.sinks(folder / stage / "model", texts, bidirectional=both)
    rows = []
    for layer, kinds in table.groupby("layer"):
        found = kinds.set_index("class")
        for kind in ("first token", "last token", "punctuation", "word"):
            if kind not in found.index:
                continue
            name = f"{stage} layer {layer} {kind}"
            line = found.loc[kind]
            rows.append(row(name, line["mean"], "of the mean token"))
            rows.append(row(f"{name}, low", line["low"], "of the mean token"))
    return rows


def _retrieval(folder: Path, stage: str, data: Collection, peer: float, length: int):
    scores = {}
    for both in (False, True):
        found = anatomy.retrieval(
            folder / stage / "model", data, bidirectional=both, max_length=length
        )
        way = "both ways" if both else "causal"
        scores |= {f"{mode}, {way}": found[mode] for mode in SHOWN}
    table = anatomy.against(scores, "mean, both ways")
    rows = []
    for line in table.to_dict("records"):
        name = f"{data.name} {stage} {line['kind']}"
        rows.append(row(name, line["score"], "NDCG@10", peer))
        if line["kind"] != "mean, both ways":
            for part in ("difference", "low", "high"):
                rows.append(row(f"{name}: {part} to mean", line[part], "NDCG@10"))
    return rows


def rows(out: str = "runs", profile: str = "workshop") -> list[Row]:
    """Loss beside n-grams, attention sinks, NDCG@10 by stage, pooling and direction."""
    folder = work_folder(out)
    cards = done(folder)
    length = resolve(profile).max_length
    own, public = held_out(), scifact()
    made = _losses(folder, cards) if "lm" in cards else []
    last = list(cards)[-1]
    for stage in dict.fromkeys(["lm", "instruct", last]):
        if stage in cards:
            made += _sinks(folder, stage, own)
    peer = float(minilm(own, length).mean())
    made.append(row(f"{own.name} MiniLM", peer, "NDCG@10"))
    for stage in cards:
        made += _retrieval(folder, stage, own, peer, length)
    if public:
        peer = float(minilm(public, length).mean())
        made.append(row(f"{public.name} MiniLM", peer, "NDCG@10"))
        made += _retrieval(folder, last, public, peer, length)
    return made
