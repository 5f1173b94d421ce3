"""What a run of synthesis will ask and cost, told before it is started.

Prompts are rendered and counted, not guessed. Where a prompt depends on answers that do
not exist yet (an example's task, SyNeg's query), the recorded ones stand in for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import pandas as pd
from tokenizers import Tokenizer

from nbutils import plan
from nbutils.errors import LabError
from nbutils.models import minilm_folder
from nbutils.prices import price_of
from nbutils.settings import Settings, nearest
from nbutils.store import Store

STAGES = ("brainstorm", "seed", "mgh", "syneg", "syneg-free")
PILOT = 5
"""Stored answers of a stage from which on they tell its lengths, not the recordings."""


def check_stages(stages: Iterable[str]) -> list[str]:
    """The stages in the order in which they are run; LabError for an unknown one."""
    wanted = list(stages)
    for name in wanted:
        if name not in STAGES:
            raise LabError(
                f"unknown stage {name!r}{nearest(name, STAGES)} "
                f"(known: {', '.join(STAGES)})"
            )
    return [stage for stage in STAGES if not wanted or stage in wanted]


def stage_of(request_id: str) -> str:
    """The stage of a request, from its id (also of one that asks again)."""
    return request_id.split("#")[0].split("/")[1]


def estimate(
    settings: Settings, store: Store, stages: Sequence[str] = ()
) -> pd.DataFrame:
    """One row a stage of what is missing in `store`, then a row `all`.

    Columns: stage, requests (planned), stored, ask, prompt_tokens, answer_mean and
    answer_p90 (tokens of one answer), from (`pilot`: the store's own answers of this
    model; `recordings`), cost, cost_p90 (if every answer were as long as the 90th
    percentile), batch_cost, currency. Tokens are word pieces of MiniLM's tokenizer,
    but for a pilot's answers, which the server counted; other tokenizers differ by
    some 10 to 20 %. Rejected answers that are asked again come on top.
    """
    price = price_of(settings)
    count = token_counter()
    used = pd.DataFrame(store.usage(), columns=["id", "model", "prompt", "answer"])
    used = used[(used["model"] == settings.llm_model) & (used["answer"] > 0)]
    pilots = used.groupby(used["id"].map(stage_of))["answer"] if len(used) else {}
    pilots = {stage: list(values) for stage, values in pilots} if len(used) else {}
    planned = _planned(settings)
    rows = []
    for stage in check_stages(stages):
        requests, recorded = planned[stage]
        chats = {r.chat(settings).key: r for r in requests}
        missing = [r for key, r in chats.items() if store.get(key) is None]
        pilot = pilots.get(stage, [])
        lengths = pilot if len(pilot) >= PILOT else count(recorded)
        asked = sum(count([r.prompt for r in missing]))
        mean, p90 = float(np.mean(lengths)), float(np.percentile(lengths, 90))
        rows.append(
            {
                "stage": stage,
                "requests": len(chats),
                "stored": len(chats) - len(missing),
                "ask": len(missing),
                "prompt_tokens": asked,
                "answer_mean": mean,
                "answer_p90": p90,
                "from": "pilot" if len(pilot) >= PILOT else "recordings",
                "cost": price.cost(asked, mean * len(missing)),
                "cost_p90": price.cost(asked, p90 * len(missing)),
            }
        )
    table = pd.DataFrame(rows)
    sums = ["requests", "stored", "ask", "prompt_tokens", "cost", "cost_p90"]
    total = pd.DataFrame([{"stage": "all", **table[sums].sum(), "from": ""}])
    table = pd.concat([table, total], ignore_index=True)
    table = table.astype(dict.fromkeys(sums[:4], int))
    return table.assign(
        batch_cost=table["cost"] * price.batch_factor, currency=price.currency
    )


def token_counter():
    """A function from texts to their numbers of tokens, by MiniLM's tokenizer."""
    tokenizer = Tokenizer.from_file(str(minilm_folder() / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()

    def count(texts: Iterable[str]) -> list[int]:
        encoded = tokenizer.encode_batch(list(texts), add_special_tokens=False)
        return [len(one.ids) for one in encoded]

    return count


def _planned(settings: Settings) -> dict[str, tuple[list[plan.Planned], list[str]]]:
    """Stage to its requests, at most `max_items` a family, and the recorded answers."""
    found: dict[str, tuple[list, list]] = {stage: ([], []) for stage in STAGES}
    for family in settings.families:
        responses = plan.recorded_responses(family)
        texts = plan.recorded_texts(responses)
        own: dict[str, list[plan.Planned]] = {stage: [] for stage in STAGES}
        for request in plan.recorded_requests(family, responses):
            own[stage_of(request.id)].append(request)
        for stage, requests in own.items():
            limit = None if stage == "brainstorm" else settings.max_items or None
            found[stage][0].extend(requests[:limit])
            found[stage][1].extend(texts[r.id] for r in requests if r.id in texts)
    return found
