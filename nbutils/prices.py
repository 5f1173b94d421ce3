"""What a token costs, and about how many tokens a text has.

Prices are rows of a table with the month in which they were noted; the user's own rows
go before the shipped ones.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from nbutils.errors import LabError
from nbutils.records import read_table
from nbutils.settings import DATA, ROOT, Settings, nearest

TABLE = DATA / "prices" / "prices.csv"
COLUMNS = [
    "model", "input_per_million", "output_per_million", "batch_factor", "currency",
    "as_of",
]  # fmt: skip


@dataclass(frozen=True)
class Price:
    """Of one model, per million tokens; `batch_factor` is what batch files cost."""

    model: str
    input_per_million: float
    output_per_million: float
    batch_factor: float
    currency: str
    as_of: str

    def cost(self, asked: float, answered: float) -> float:
        """Of so many prompt and answer tokens, in `currency`, asked live."""
        total = asked * self.input_per_million + answered * self.output_per_million
        return total / 1e6


def price_table(path: str = "") -> pd.DataFrame:
    """The shipped prices after the user's own (`path`, a csv of the same columns).

    Raises LabError for a file that is missing, lacks a column or holds no numbers.
    """
    own = [_read(Path(ROOT, path))] if path else []
    return pd.concat([*own, _read(TABLE)]).drop_duplicates("model", ignore_index=True)


def price_of(settings: Settings) -> Price:
    """The price of the model in force. LabError that says how to give one."""
    table = price_table(settings.llm_prices)
    rows = table[table["model"] == settings.llm_model]
    if rows.empty:
        near = nearest(settings.llm_model, table["model"])
        raise LabError(
            f"no price is known of model {settings.llm_model!r}{near}: name a csv "
            f"with llm_prices, of the columns {','.join(COLUMNS)} (0 is a price)"
        )
    return Price(**rows.iloc[0].to_dict())


def rough_tokens(text: str) -> int:
    """An upper guess of a text's tokens, a third of its bytes: for limits and budgets.

    English has 4 to 5 bytes a token; the server's own count replaces the guess.
    """
    return math.ceil(len(text.encode()) / 3)


def _read(path: Path) -> pd.DataFrame:
    table = read_table(path)
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise LabError(f"price table {path} lacks the column {missing[0]!r}")
    numbers = table[COLUMNS[1:4]].apply(pd.to_numeric, errors="coerce")
    if numbers.isna().any(axis=None) or (numbers < 0).any(axis=None):
        raise LabError(f"price table {path}: prices must be numbers of 0 or more")
    return table[COLUMNS].assign(**numbers, as_of=table["as_of"].astype(str))
