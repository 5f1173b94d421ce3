"""Plots of the pretrained decoder: its loss, its sinks, what each stage gives."""

from __future__ import annotations

import numpy as np
import pandas as pd

from nbutils.figures import LINES, PALETTE, Plot, canvas, dots, with_interval

COUNTED = {"seen": "as many tokens", "all": "all tokens"}
"""What n-grams were counted on, in words."""


def losses(curve: pd.DataFrame, table: pd.DataFrame) -> Plot:
    """Validation loss by tokens of one stage, and levels of n-gram models.

    `curve`: tokens, validation_loss. `table`: model, loss, counted (what the n-grams
    were counted on), as `bench_decoder.losses` makes it.
    """
    fig, axis = canvas(6.5, 3.4)
    axis.plot(
        curve["tokens"] / 1e6, curve["validation_loss"], color=PALETTE[0],
        label="decoder, while it learns",
    )  # fmt: skip
    peers = table[table["model"] != "decoder"]
    peers = peers.assign(loss=peers["loss"].round(2))  # more is not seen
    peers = peers.drop_duplicates(["model", "loss"]).reset_index(drop=True)
    for number, row in peers.iterrows():
        axis.axhline(
            row["loss"], color=PALETTE[number + 1], linestyle=LINES[number % 3 + 1],
            label=f"{row['model']}, {COUNTED[row['counted']]}",
        )  # fmt: skip
    axis.set(xlabel="million tokens", ylabel="validation loss, nats a token")
    axis.legend(fontsize=8)
    own = table[table["model"] == "decoder"].iloc[0]
    told = [
        f"{r['model']} of {COUNTED[r['counted']]} {r['loss']:.2f}"
        for r in peers.to_dict("records")
    ]
    return fig, (
        f"Loss on pages set aside: decoder {own['loss']:.2f} after "
        f"{curve['tokens'].iloc[-1] / 1e6:.1f} million tokens; {'; '.join(told)}."
    )


def sinks(table: pd.DataFrame, stages: dict[str, str]) -> Plot:
    """Attention received by class of token in the last layer, a colour a stage.

    `table`: stage, layer, class, mean, low, high; `stages`: stage to its label.
    """
    last = table[table["layer"] == table["layer"].max()]
    names = list(dict.fromkeys(last["class"]))
    fig, axis = canvas(6.5, 3.2)
    told = []
    for number, (stage, label) in enumerate(stages.items()):
        rows = last[last["stage"] == stage].set_index("class").reindex(names)
        rows = rows.rename(columns={"mean": "value"})
        places = np.arange(len(names)) + 0.2 * (number - (len(stages) - 1) / 2)
        dots(axis, rows, places, number, label)
        words = ", ".join(f"{name} {rows['value'][name]:.2f}" for name in names)
        told.append(f"{label}: {words}")
    axis.axvline(1, color="black", linestyle="--", linewidth=1)
    axis.set_yticks(np.arange(len(names)), names)
    axis.invert_yaxis()
    axis.set_xlabel("attention received in the last layer, in shares of the mean")
    axis.legend(fontsize=8)
    return fig, f"Attention received in the last layer: {'; '.join(told)}."


def by_stage(table: pd.DataFrame, kinds: dict[str, str]) -> Plot:
    """NDCG@10 after each stage by pooling; MiniLM and half of it as lines.

    `table`: stage, kind, score of one retrieval set; `kinds`: stage to the direction
    in which it attends ("causal", "both ways").
    """
    fig, axis = canvas(6.5, 3.2)
    peer = float(table.loc[table["stage"] == "MiniLM", "score"].iloc[0])
    told = []
    for number, mode in enumerate(("mean", "ata", "last")):
        scores = [
            float(table.loc[(table["stage"] == stage)
                            & (table["kind"] == f"{mode} {way}"), "score"].iloc[0])
            for stage, way in kinds.items()
        ]  # fmt: skip
        axis.plot(
            list(kinds), scores, label=mode, marker="os^"[number],
            color=PALETTE[number], linestyle=LINES[number],
        )  # fmt: skip
        if mode == "mean":
            told = [f"{s} {v:.3f}" for s, v in zip(kinds, scores, strict=True)]
    axis.axhline(peer, color="black", linewidth=1, label="MiniLM")
    axis.axhline(peer / 2, color="black", linewidth=1, linestyle=":", label="half")
    axis.set(xlabel="after stage", ylabel="NDCG@10", ylim=(0, None))
    axis.legend(fontsize=8, ncols=2)
    return fig, (
        f"NDCG@10 with mean pooling after each stage: {', '.join(told)}; MiniLM "
        f"{peer:.3f}."
    )


def directions(table: pd.DataFrame, base: str) -> Plot:
    """Paired differences from `base` by set: set, kind, difference, low, high."""
    sets = list(dict.fromkeys(table["set"]))
    kinds = [k for k in dict.fromkeys(table["kind"]) if k != base]
    fig, axis = canvas(6.5, 3.2)
    told = []
    for number, name in enumerate(sets):
        rows = table[table["set"] == name].set_index("kind").loc[kinds]
        rows = rows.rename(columns={"difference": "value"})
        places = np.arange(len(kinds)) + 0.2 * (number - (len(sets) - 1) / 2)
        dots(axis, rows, places, number, name)
        told += [
            f"{name}, {kind} "
            f"{with_interval(row['value'], row['low'], row['high'], '+.3f')}"
            for kind, row in rows.iterrows()
        ]
    axis.axvline(0, color="black", linestyle="--", linewidth=1)
    axis.set_yticks(np.arange(len(kinds)), kinds)
    axis.invert_yaxis()
    axis.set_xlabel(f"NDCG@10, difference from {base}")
    axis.legend(fontsize=8)
    return fig, f"NDCG@10 against {base}: {'; '.join(told)}."
