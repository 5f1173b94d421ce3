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
from nbutils.pairs import ASK_WRITE
from nbutils.settings import MINILM, ROOT, resolve
from nbutils.stages import STAGES

HELD_OUT = "held-out-tasks"
ROWS = 400
"""Rows of validation text that losses are the mean of."""
TEXTS = 300
"""Texts that attention received is the mean of."""
SHOWN = ("last", "mean", "ata")
BASE = "mean both ways"
INSPECTED = ("lm", "instruct", "mntp")
"""Stages whose attention is looked at, beside the last one's."""
PROMPTS = {
    "lm": ("The sun is", "A river is"),
    "instruct": (f"[INST] {ASK_WRITE}; The Moon [/INST]",),
}
"""What stages are asked to go on from."""


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


def losses(folder: Path) -> pd.DataFrame:
    """Loss of stage lm beside n-grams of as many tokens (`seen`) and of `all`."""
    model, _ = decoder.load_decoder(folder / "lm" / "model")
    train = corpora.packed(folder / "tokens", "train")
    held = corpora.packed(folder / "tokens", "validation")
    made = done(folder)["lm"]
    counts = {"seen": min(made["tokens"], len(train)), "all": len(train)}
    tables = [
        anatomy.losses(
            model, train[:count], held, made["settings"]["length"], ROWS
        ).assign(counted=name, tokens=count)
        for name, count in counts.items()
    ]
    return pd.concat(tables, ignore_index=True)


def texts(folder: Path) -> pd.DataFrame:
    """What stages write after each of PROMPTS: columns stage, prompt, text."""
    found = []
    for stage in [name for name in PROMPTS if (folder / name / "model").is_dir()]:
        model, tokenizer = decoder.load_decoder(folder / stage / "model")
        for prompt in PROMPTS[stage]:
            written = anatomy.sample(model, tokenizer, prompt)
            found.append({"stage": stage, "prompt": prompt, "text": written})
    return pd.DataFrame(found)


def sinks(folder: Path, stages: Sequence[str], texts: Sequence[str]) -> pd.DataFrame:
    """Attention received by stage, layer and class of token, in shares of the mean."""
    tables = [
        anatomy.sinks(
            folder / stage / "model", texts, bidirectional=STAGES[stage].bidirectional
        ).assign(stage=stage)
        for stage in stages
    ]
    return pd.concat(tables, ignore_index=True)


def retrieval(
    folder: Path, stages: Sequence[str], data: Collection, length: int
) -> pd.DataFrame:
    """NDCG@10 by stage and pooling, each stage in its own direction of attention.

    The last stage is measured in both, with its paired difference from BASE. Columns:
    set, stage, kind, score, difference, low, high, and by how much the score is over
    half of MiniLM's: over_half, over_half_low, over_half_high. MiniLM is a stage.
    """
    peer = minilm(data, length)
    found = [{"stage": "MiniLM", "kind": "as published", "score": float(peer.mean())}]
    for stage in stages:
        both = STAGES[stage].bidirectional
        scores: dict[str, pd.Series] = {}
        for way in (False, True) if stage == stages[-1] else (both,):
            made = anatomy.retrieval(
                folder / stage / "model", data, bidirectional=way, max_length=length
            )
            name = "both ways" if way else "causal"
            scores |= {f"{mode} {name}": made[mode] for mode in SHOWN}
        base = BASE if BASE in scores else next(iter(scores))
        table = anatomy.against(scores, base)
        if stage != stages[-1]:
            table = table[["kind", "score"]].copy()
        over = anatomy.against({"half": peer / 2, **scores}, "half").set_index("kind")
        over = over[["difference", "low", "high"]].loc[table["kind"]]
        table[["over_half", "over_half_low", "over_half_high"]] = over.to_numpy()
        found += table.assign(stage=stage).to_dict("records")
    return pd.DataFrame(found).assign(set=data.name)


def measure(folder: Path, profile: str = "workshop") -> dict[str, pd.DataFrame]:
    """Everything that is measured on a pretraining's folder, as tables by name."""
    stages, length = list(done(folder)), resolve(profile).max_length
    sets = [held_out(), scifact()]
    found: dict[str, pd.DataFrame] = {}
    if "lm" in stages:
        found["losses"] = losses(folder)
    found["texts"] = texts(folder)
    inspected = dict.fromkeys([*(s for s in stages if s in INSPECTED), stages[-1]])
    passages = list(sets[0].documents.values())[:TEXTS]
    found["sinks"] = sinks(folder, list(inspected), passages)
    # every stage on the project's own tasks, the last one on the public set too
    found["retrieval"] = pd.concat(
        [
            retrieval(folder, stages if number == 0 else stages[-1:], data, length)
            for number, data in enumerate(sets)
            if data is not None
        ],
        ignore_index=True,
    )
    return {name: table for name, table in found.items() if len(table)}


def rows(out: str = "runs", profile: str = "workshop") -> list[Row]:
    """Loss beside n-grams, attention sinks, NDCG@10 by stage, pooling and direction."""
    found = measure(work_folder(out), profile)
    made: list[Row] = []
    if "losses" in found:
        for counted, table in found["losses"].groupby("counted", sort=False):
            loss = table.set_index("model")["loss"]
            made += [
                row(f"loss, {peer} of tokens {counted}", float(loss["decoder"]),
                    "nats a token", float(loss[peer]))
                for peer in ("unigram", "trigram")
            ]  # fmt: skip
    for line in found["sinks"].to_dict("records"):
        name = f"{line['stage']}, layer {line['layer']}, {line['class']}"
        made.append(row(name, line["mean"], "of the mean token"))
    peers = found["retrieval"].query("stage == 'MiniLM'").set_index("set")["score"]
    for line in found["retrieval"].to_dict("records"):
        peer = None if line["stage"] == "MiniLM" else float(peers[line["set"]])
        name = f"{line['set']}, {line['stage']}, {line['kind']}"
        made.append(row(name, line["score"], "NDCG@10", peer))
    return made
