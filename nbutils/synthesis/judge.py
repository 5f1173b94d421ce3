"""A language model as judge: does this passage answer this query?

NV-Retriever counts false negatives so (section on false negatives, a 70B model as
judge), and SyNeg's negatives can be checked so. Verdicts are answers like any other:
asked through the client, stored as they arrive, replayed for nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from nbutils.core.errors import LabError
from nbutils.core.fields import Settings
from nbutils.core.records import Rejection, Verdict
from nbutils.encoder.models import token_counter
from nbutils.llm.client import Client
from nbutils.llm.costs import Price, price_table
from nbutils.synthesis.asking import Watch, fulfil
from nbutils.synthesis.parsing import guarded, read_reply
from nbutils.synthesis.plan import Planned
from nbutils.synthesis.replies import JudgeReply

SCHEMA = JudgeReply.model_json_schema()

ANSWER_TOKENS = 60
"""Our guess of the length of a verdict, a sentence and a flag: none is recorded."""


def request(query_id: str, query: str, document_id: str, passage: str) -> Planned:
    """The request for one verdict."""
    return Planned(
        f"judge/{query_id}/{document_id}",
        "judge",
        {
            "query": query,
            "passage": passage,
            "query_id": query_id,
            "document_id": document_id,
        },
    )


def parse(request: Planned, text: str) -> Verdict | Rejection:
    """The verdict in an answer, or the named reason why there is none."""
    return guarded(_verdict, request, text)


def _verdict(request: Planned, text: str) -> Verdict:
    reply = read_reply(JudgeReply, text)
    return Verdict(
        id=request.id,
        query_id=request.variables["query_id"],
        document_id=request.variables["document_id"],
        answers=reply.answers,
        reason=reply.reason.strip(),
    )


def judge_pairs(
    pairs: Iterable[tuple[str, str]],
    queries: Mapping[str, str],
    texts: Mapping[str, str],
    settings: Settings,
    client: Client,
    watch: Watch | None = None,
) -> tuple[list[Verdict], list[Rejection]]:
    """Verdicts on (query id, document id) pairs, each pair asked once.

    queries, texts: id to text. Raises LabError for an id without a text.
    """
    asked = requests(pairs, queries, texts)
    client.schemas = {**client.schemas, "judge": SCHEMA}
    return fulfil(asked, settings, client, watch, parsers={"judge": parse})


def requests(
    pairs: Iterable[tuple[str, str]],
    queries: Mapping[str, str],
    texts: Mapping[str, str],
) -> list[Planned]:
    """What `judge` asks: one request a different pair. LabError as there."""
    asked = []
    for query, document in dict.fromkeys(pairs):
        for kind, name, known in (
            ("query", query, queries),
            ("document", document, texts),
        ):
            if name not in known:
                raise LabError(f"{kind} {name!r} has no text: it cannot be judged")
        asked.append(request(query, queries[query], document, texts[document]))
    return asked


def unanswered(
    asked: Iterable[Planned], settings: Settings, client: Client
) -> list[Planned]:
    """Those that no recording and no store answers; nothing is asked."""
    return [one for one in asked if client.find(one.chat(settings)) is None]


def cost(asked: Sequence[Planned], settings: Settings) -> pd.DataFrame:
    """What these requests would cost each model of the price table, told before.

    One row a model: requests, prompt_tokens (word pieces of MiniLM's tokenizer; others
    differ by 10 to 20 %), answer_tokens (ANSWER_TOKENS each), cost, batch_cost,
    currency and as_of, the month of the prices.
    """
    prompt = sum(token_counter()(one.prompt for one in asked))
    answer = ANSWER_TOKENS * len(asked)
    rows = []
    for row in price_table(settings.llm.prices).to_dict("records"):
        price = Price(**row)
        about = price.cost(prompt, answer)
        rows.append(
            {
                "model": price.model,
                "requests": len(asked),
                "prompt_tokens": prompt,
                "answer_tokens": answer,
                "cost": about,
                "batch_cost": about * price.batch_factor,
                "currency": price.currency,
                "as_of": price.as_of,
            }
        )
    return pd.DataFrame(rows)


def share_answering(
    verdicts: Sequence[Verdict], samples: int = 2000, seed: int = 0
) -> tuple[float, float, float]:
    """Share of the judged passages that answer, with its 95 % interval over queries.

    For mined negatives: the false-negative rate as the judge sees it.
    """
    table = _table(verdicts)
    per_query = table.groupby("query_id")["answers"]
    sums = per_query.agg(["sum", "size"]).to_numpy(float)
    draw = np.random.default_rng(seed)
    weights = draw.multinomial(
        len(sums), np.full(len(sums), 1 / len(sums)), size=samples
    )
    drawn = weights @ sums
    low, high = np.percentile(drawn[:, 0] / drawn[:, 1], [2.5, 97.5])
    return float(table["answers"].mean()), float(low), float(high)


def agreement(
    verdicts: Sequence[Verdict],
    right: Iterable[tuple[str, str]],
    samples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """How a judge compares with what is known: one row a measure.

    right: (query id, document id) of every pair that is known to answer; all other
    judged pairs are taken as not answering. Columns measure, value, low, high
    (intervals over queries). Measures: accuracy; precision and recall of "answers";
    kappa (Cohen 1960), which takes away the agreement of chance.
    """
    table = _table(verdicts)
    known = set(right)
    pairs = zip(table["query_id"], table["document_id"], strict=True)
    table["truth"] = [pair in known for pair in pairs]
    queries = table["query_id"].unique()
    cells = _cells(table, queries)
    draw = np.random.default_rng(seed)
    count = len(queries)
    weights = draw.multinomial(count, np.full(count, 1 / count), size=samples)
    values, drawn = _measures(cells.sum(0)[None]), _measures(weights @ cells)
    rows = []
    for name, value in values.items():
        finite = drawn[name][np.isfinite(drawn[name])]
        low, high = np.percentile(finite, [2.5, 97.5]) if len(finite) else (np.nan,) * 2
        rows.append({"measure": name, "value": value[0], "low": low, "high": high})
    return pd.DataFrame(rows)


def _table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    if not verdicts:
        raise LabError("there is no verdict to count: judge some pairs first")
    return pd.DataFrame([verdict.model_dump() for verdict in verdicts])


def _cells(table: pd.DataFrame, queries: np.ndarray) -> np.ndarray:
    """Per query: both yes, judge only, truth only, both no (queries, 4)."""
    said, true = table["answers"].to_numpy(), table["truth"].to_numpy()
    kinds = np.stack([said & true, said & ~true, ~said & true, ~said & ~true], 1)
    place = pd.Index(queries).get_indexer(table["query_id"])
    cells = np.zeros((len(queries), 4))
    np.add.at(cells, place, kinds)
    return cells


def _measures(cells: np.ndarray) -> dict[str, np.ndarray]:
    both, judge_only, truth_only, neither = cells.T
    total = cells.sum(1)
    with np.errstate(divide="ignore", invalid="ignore"):
        accuracy = (both + neither) / total
        said, true = both + judge_only, both + truth_only
        chance = (said * true + (total - said) * (total - true)) / total**2
        return {
            "accuracy": accuracy,
            "precision": both / said,
            "recall": both / true,
            "kappa": (accuracy - chance) / (1 - chance),
        }
