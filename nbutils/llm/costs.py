"""What a token costs, and about how many tokens a text has.

Prices are rows of a table with the month in which they were noted; the user's own rows
go before the shipped ones.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from nbutils.core.errors import LabError, nearest
from nbutils.core.fields import Settings
from nbutils.core.files import read_table
from nbutils.core.settings import DATA, ROOT

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
    table = price_table(settings.llm.prices)
    rows = table[table["model"] == settings.llm.model]
    if rows.empty:
        near = nearest(settings.llm.model, table["model"])
        raise LabError(
            f"no price is known of model {settings.llm.model!r}{near}: name a csv "
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


class BudgetReached(LabError):
    """Nothing more is asked: the next answer might cost more than is left."""


class Pace:
    """Spreads units evenly over time: a token bucket without a burst.

    Of `per_minute` units (0: no limit) each lot starts when the lots before it have
    been paid for in time, so no minute sees more than `per_minute` and one lot.
    """

    def __init__(
        self,
        per_minute: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ):
        self.seconds_per_unit = 60 / per_minute if per_minute else 0.0
        self._clock, self._sleep = clock, sleep
        self._free_at = clock()
        self._lock = threading.Lock()

    def take(self, units: float = 1) -> None:
        """Wait for the turn of a lot of `units`."""
        if not self.seconds_per_unit:
            return
        with self._lock:
            now = self._clock()
            start = max(now, self._free_at)
            self._free_at = start + units * self.seconds_per_unit
        if start > now:
            self._sleep(start - now)

    def settle(self, unused: float) -> None:
        """Give back units that were taken and not used (negative: used beyond)."""
        with self._lock:
            self._free_at -= unused * self.seconds_per_unit


class Budget:
    """Lets requests through while what they may cost at most still fits `limit`.

    A request under way holds back its dearest outcome (the longest answer allowed);
    when it is answered, what it used takes that place. So the limit is not passed,
    but for a prompt that has more tokens than was guessed, and for attempts that were
    billed and brought no answer, of which a client learns nothing.
    """

    def __init__(self, limit: float, price: Price, spent: float):
        self.limit, self.price, self.spent = limit, price, spent
        self._held = 0.0
        self._changed = threading.Condition()

    def hold(self, asked: int, answered: int) -> float:
        """Hold back the cost of so many tokens; waits for others to be settled.

        Raises BudgetReached where it does not fit and nothing is under way.
        """
        cost = self.price.cost(asked, answered)
        with self._changed:
            while self.spent + self._held + cost > self.limit:
                if self._held == 0:
                    raise BudgetReached(
                        f"the budget of {self.limit:g} {self.price.currency} is "
                        f"reached ({self.spent:.4f} spent by this store; the next "
                        f"request may cost {cost:.4f}): what had arrived is stored; "
                        "raise llm_max_cost (--max-cost) to go on"
                    )
                self._changed.wait()
            self._held += cost
        return cost

    def settle(self, held: float, asked: int, answered: int) -> None:
        """Replace what was held back by what was used (0, 0 after a failure)."""
        with self._changed:
            self._held -= held
            if self._held < 1e-12:  # rounding: nothing is under way
                self._held = 0.0
            self.spent += self.price.cost(asked, answered)
            self._changed.notify_all()
