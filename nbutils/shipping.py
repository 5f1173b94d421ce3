"""A pretrained decoder as a folder to ship: the model, its curve, its card.

The card says what was done because it is written from what the run left: cards of the
stages, hashes of the text, measured rows.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from nbutils.corpora import SOURCES
from nbutils.errors import LabError
from nbutils.records import atomic_folder, sha256, write_table
from nbutils.settings import Pretraining
from nbutils.stages import STAGES

CARD, CURVES = "README.md", "curve.csv"
LONGEST_TABLE = 40
"""Rows of a table that the card repeats; of a longer one it says where it is."""


def ship(
    work: str | Path,
    to: str | Path,
    tables: Mapping[str, pd.DataFrame],
    model: bool = True,
) -> Path:
    """Write what a pretraining's folder holds to a new one: curve, tables, card, model.

    `tables` are those of `bench_decoder.measure`; each becomes NAME.csv. Without
    `model` the last stage's model stays where it is: the folder is a study. LabError
    where no stage is done, and for a folder that holds something else.
    """
    work, to = Path(work), Path(to)
    cards = {
        name: json.loads((work / name / "stage.json").read_text(encoding="utf-8"))
        for name in STAGES
        if (work / name / "stage.json").is_file()
    }
    if not cards:
        raise LabError(f"{work} holds no stage that is done: run the pretraining first")
    if to.exists() and not (to / CURVES).is_file() and any(to.iterdir()):
        raise LabError(f"{to} holds other files: name a folder of its own")
    corpus = json.loads((work / "tokens" / "corpus.json").read_text(encoding="utf-8"))
    last = work / list(cards)[-1] / "model"
    with atomic_folder(to) as made:
        made.mkdir()
        if model:
            shutil.copytree(last, made, dirs_exist_ok=True)
        curves = [
            pd.read_csv(work / name / "curve.csv").assign(stage=name) for name in cards
        ]
        write_table(made / CURVES, pd.concat(curves, ignore_index=True))
        for name, table in tables.items():
            write_table(made / f"{name}.csv", table.round(5))
        text = card(cards, corpus, last, tables, sorted(p.name for p in made.iterdir()))
        (made / CARD).write_text(text, encoding="utf-8")
        for path in made.iterdir():  # safetensors writes files that others cannot read
            path.chmod(0o644)
    return to


def card(
    cards: Mapping[str, Mapping[str, Any]],
    corpus: Mapping[str, Any],
    model: Path,
    tables: Mapping[str, pd.DataFrame],
    files: Sequence[str],
) -> str:
    """The card, in markdown, of the folder `model` and of what was measured on it.

    `files` are the names of what lies beside the card.
    """
    last = list(cards)[-1]
    settings = cards[last]["settings"]
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    size = (model / "model.safetensors").stat().st_size / 1e6
    parts = [
        "# A scale model of Mistral\n",
        f"`{config['architectures'][0]}`, {size:.1f} MB in bfloat16: width "
        f"{settings['hidden']}, {settings['layers']} layers, {settings['heads']} query "
        f"heads, {settings['key_heads']} key heads, byte-level BPE of "
        f"{settings['vocabulary']} tokens with `<s>`, `</s>`, `[INST]`, `[/INST]`. "
        f"Pretrained by this project; the last stage is `{last}`.\n",
        "It is for teaching: small enough to be trained on a laptop, and too small and "
        "too briefly trained to be used for anything else.\n",
        "## What was done\n",
        _stages(cards),
        "A stage that was given minutes ended with them; losses of different stages "
        "are of different things. The whole curve is in `curve.csv`.\n",
        "## Text\n",
        _text(corpus),
        _teacher(cards),
        "## Measured\n",
        _measured(tables),
        "## Made again\n",
        _command(cards),
        "## Hashes\n",
        _hashes(model, files),
        "## Licence\n",
        "The weights are trained on text under the licences above, which ask for "
        "attribution, and, Wikipedia's, for the same licence: take them as "
        "CC BY-SA 3.0. The code is the project's (MIT).\n",
    ]
    return "\n".join(part for part in parts if part)


def _stages(cards: Mapping[str, Mapping[str, Any]]) -> str:
    lines = [
        "| stage | what | from | steps | tokens | minutes | loss | validation loss |",
        "|---|---|---|---|---|---|---|---|",
    ]
    lines += [
        f"| {name} | {c['what']} | {c['from']} | {c['steps']:,} | {c['tokens']:,} | "
        f"{c['seconds'] / 60:.1f} | {c['loss']:.3f} | {c['validation_loss']:.3f} |"
        for name, c in cards.items()
    ]
    return "\n".join(lines) + "\n"


def _text(corpus: Mapping[str, Any]) -> str:
    lines = [
        f"- {SOURCES[name].title}: {SOURCES[name].licence}, by "
        f"{SOURCES[name].authors} (`{name}`, sha256 `{digest}`)"
        for name, digest in corpus["sources"].items()
    ]
    kinds = {
        kind: f"{corpus[f'{kind}_pages']:,} pages, {corpus[f'{kind}_tokens']:,} tokens"
        for kind in ("train", "validation")
    }
    lines.append(
        f"\n{kinds['train']} to train on; {kinds['validation']} set aside by page. "
        "The project's recordings are not among them."
    )
    return "\n".join(lines) + "\n"


def _teacher(cards: Mapping[str, Mapping[str, Any]]) -> str:
    first = next(iter(cards.values()))["settings"]
    uses = []
    if first["embeddings"] == "teacher":
        uses.append("the first token embeddings are its vectors of single tokens")
    taught = [name for name in ("words", "distill", "neighbours") if name in cards]
    if taught:
        names = ", ".join(f"`{name}`" for name in taught)
        most = cards[taught[-1]]["settings"]["teacher_texts"]
        uses.append(
            f"{names} learn its vectors of at most {most:,} titles and passages"
        )
    if not uses:
        return ""
    return (
        "Teacher: sentence-transformers/all-MiniLM-L6-v2 (Apache-2.0); "
        f"{'; '.join(uses)}.\n"
    )


def _measured(tables: Mapping[str, pd.DataFrame]) -> str:
    if not tables:
        return "Nothing was measured when this card was written.\n"
    parts = []
    for name, table in tables.items():
        if len(table) > LONGEST_TABLE:
            parts.append(f"`{name}.csv`: {len(table)} rows\n")
            continue
        columns = list(table.columns)
        lines = [f"`{name}.csv`", "", f"| {' | '.join(columns)} |"]
        lines.append("|" + "---|" * len(columns))
        for row in table.itertuples(index=False):
            lines.append(f"| {' | '.join(map(_cell, row))} |")
        parts.append("\n".join(lines) + "\n")
    return "\n".join(parts)


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.3f}"
    return " ".join(str(value).split()).replace("|", "\\|")


def _command(cards: Mapping[str, Mapping[str, Any]]) -> str:
    usual = Pretraining().model_dump()
    lines = []
    for name, made in cards.items():
        words = [
            f" --set {key}={value}"
            for key, value in made["settings"].items()
            if usual.get(key) != value
        ]
        given = made.get("minutes")
        minutes = f":{given:g}" if given else ""
        lines.append(
            "python -m nbutils pretrain --text FOLDER --out runs/decoder "
            f"--stages {name}{minutes}{''.join(words)}"
        )
    return (
        "```sh\n" + "\n".join(lines) + "\n```\n\nMinutes are those of the machine that "
        "ran it; with the steps above as `--set STAGE_steps=…` and no minutes the "
        "learning rate falls by steps instead.\n"
    )


def _hashes(model: Path, files: Sequence[str]) -> str:
    names = ("model.safetensors", "tokenizer.json")
    lines = [f"- `{name}` `{sha256(model / name)}`" for name in names]
    if names[0] not in files:
        lines.append("\nThe model itself is not beside this card.")
    return "\n".join(lines) + "\n"
