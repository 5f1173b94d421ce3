"""A language model as judge: does this passage answer this query?

NV-Retriever counts false negatives so (section on false negatives, a 70B model as
judge), and SyNeg's negatives can be checked so.
"""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pandas as pd

from nbutils.core.errors import LabError
from nbutils.core.records import Verdict
from nbutils.core.settings import Settings
from nbutils.core.statistics import bootstrap, ratio
from nbutils.llm.costs import Price, price_table
from nbutils.synthesis.prompts import Planned
from nbutils.synthesis.recording import count_tokens
from nbutils.synthesis.replies import Line, Prompt, Reply

ANSWER_TOKENS = 60
"""Our guess of the length of a verdict, a sentence and a flag: none is recorded."""


class JudgeReply(Reply):
    makes = Verdict
    reason: Line
    answers: bool


JUDGE = Prompt("judge", JudgeReply)


def judge_requests(
    pairs: Iterable[tuple[str, str]],
    queries: Mapping[str, str],
    texts: Mapping[str, str],
) -> list[Planned]:
    """One request a different (query id, document id) pair.

    queries, texts: id to text. LabError for an id without a text.
    """
    asked = []
    for query, document in dict.fromkeys(pairs):
        named = ("query", query, queries), ("document", document, texts)
        for kind, name, known in named:
            if name not in known:
                raise LabError(f"{kind} {name!r} has no text: it cannot be judged")
        filled = {"query": queries[query], "passage": texts[document]}
        ids = {"query_id": query, "document_id": document}
        asked.append(Planned(f"judge/{query}/{document}", JUDGE, filled, known=ids))
    return asked


def judge_cost(asked: Sequence[Planned], settings: Settings) -> pd.DataFrame:
    """What these requests would cost, one row a model of the price table.

    requests, prompt_tokens, answer_tokens (ANSWER_TOKENS each), cost, batch_cost,
    currency and as_of, the month of the prices.
    """
    table = price_table(settings.llm.prices)
    prompt = sum(count_tokens(one.text for one in asked))
    answer = ANSWER_TOKENS * len(asked)
    cost = [Price(**row).cost(prompt, answer) for row in table.to_dict("records")]
    made = table[["model"]].assign(
        requests=len(asked), prompt_tokens=prompt, answer_tokens=answer, cost=cost
    )
    made["batch_cost"] = made["cost"] * table["batch_factor"]
    return made.join(table[["currency", "as_of"]])


def share_answering(
    verdicts: Sequence[Verdict], **draws: int
) -> tuple[float, float, float]:
    """Share of the judged passages that answer, with its 95 % interval over queries.

    Of mined negatives it is the rate of false ones. `draws`: `statistics.bootstrap`.
    """
    per_query = _table(verdicts).groupby("query_id")["answers"].agg(["sum", "size"])
    return bootstrap(ratio, per_query, **draws)


def agreement(
    verdicts: Sequence[Verdict], right: Iterable[tuple[str, str]], **draws: int
) -> pd.DataFrame:
    """How a judge compares with what is known: one row a measure.

    right: (query id, document id) of every pair that answers; no other does. Columns
    measure, value, low, high (intervals over queries). Measures: accuracy; precision
    and recall of "answers"; kappa (Cohen 1960), less the agreement of chance.
    """
    table, known = _table(verdicts), set(right)
    table["true"] = [(one.query_id, one.document_id) in known for one in verdicts]
    table["both"], table["all"] = table["answers"] & table["true"], True
    cells = ["both", "answers", "true", "all"]
    per_query = table.groupby("query_id", sort=False)[cells].sum()
    rows = [
        (name, *bootstrap(lambda counts, n=n: _measures(counts)[n], per_query, **draws))
        for n, name in enumerate(("accuracy", "precision", "recall", "kappa"))
    ]
    return pd.DataFrame(rows, columns=["measure", "value", "low", "high"])


def _table(verdicts: Sequence[Verdict]) -> pd.DataFrame:
    if not verdicts:
        raise LabError("there is no verdict to count: judge some pairs first")
    return pd.DataFrame([verdict.model_dump() for verdict in verdicts])


def _measures(counts: np.ndarray) -> tuple[np.ndarray, ...]:
    """Accuracy, precision, recall and kappa of totals (..., 4) of the cells."""
    both, said, true, total = np.moveaxis(counts, -1, 0)
    accuracy = (total - said - true + 2 * both) / total
    chance = (said * true + (total - said) * (total - true)) / total**2
    return accuracy, both / said, both / true, (accuracy - chance) / (1 - chance)
