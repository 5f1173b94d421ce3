"""What a token costs, and the limits on tokens, attempts and money."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from pydantic import BaseModel, Field, ValidationError

from nbutils.core.errors import LabError, nearest
from nbutils.core.files import read_table
from nbutils.core.settings import DATA, ROOT, Settings

TABLE = DATA / "prices" / "prices.csv"


class Price(BaseModel, coerce_numbers_to_str=True):
    """Of one model, per million tokens; `batch_factor` is what batch files cost."""

    model: str
    input_per_million: float = Field(ge=0)
    output_per_million: float = Field(ge=0)
    batch_factor: float = Field(ge=0)
    currency: str
    as_of: str

    def cost(self, asked: float, answered: float, batch: bool = False) -> float:
        """Of so many prompt and answer tokens, in `currency`, live or in a batch."""
        total = asked * self.input_per_million + answered * self.output_per_million
        return total / 1e6 * (self.batch_factor if batch else 1)


def price_table(path: str = "") -> pd.DataFrame:
    """The shipped prices after the user's own (`path`, a csv of the same columns).

    LabError for a file that is missing, lacks a column or holds no numbers.
    """
    rows = []
    for table in [Path(ROOT, path), TABLE] if path else [TABLE]:
        try:
            rows += [dict(Price(**row)) for row in read_table(table).to_dict("records")]
        except ValidationError as error:
            first = error.errors()[0]
            fault = f"{first['loc'][0]}: {first['msg']}"
            raise LabError(f"price table {table}, column {fault}") from None
    return pd.DataFrame(rows).drop_duplicates("model", ignore_index=True)


def price_of(settings: Settings, model: str = "") -> Price:
    """The price of `model` (the one in force). LabError that says how to give one."""
    model = model or settings.llm.model
    table = price_table(settings.llm.prices)
    for row in table[table["model"] == model].to_dict("records"):
        return Price(**row)
    told = f"no price is known of model {model!r}"
    if model == "recorded":
        raise LabError(f"{told}: set llm_model ({', '.join(table['model'])})")
    raise LabError(
        f"{told}{nearest(model, table['model'])}: name a csv with llm_prices, of the "
        f"columns {','.join(Price.model_fields)} (0 is a price)"
    )


class Pace:
    """Spreads units evenly over time: a token bucket without a burst.

    No minute sees more than `per_minute` units (0: no limit) and one lot of them.
    """

    def __init__(self, per_minute: float):
        self.seconds_per_unit = 60 / per_minute if per_minute else 0.0
        self._free_at = time.monotonic()
        self._lock = threading.Lock()

    def take(self, units: float = 1) -> None:
        """Wait for the turn of a lot of `units`."""
        with self._lock:
            now = time.monotonic()
            wait = max(self._free_at - now, 0)
            self._free_at = now + wait + units * self.seconds_per_unit
        if wait:
            time.sleep(wait)

    def give_back(self, units: float) -> None:
        """Of what was taken, so much was not used (negative: used beyond)."""
        with self._lock:
            self._free_at -= units * self.seconds_per_unit


class BudgetReached(LabError):
    """Nothing more is asked: the next answer might cost more than is left."""


class Budget:
    """Lets requests through while what they may cost at most still fits `limit`.

    `spent` counts answers of earlier runs at the live price, those of batch files too:
    the store does not say how one came. The limit may be passed only by a prompt of
    more tokens than guessed, and by attempts that were billed and brought no answer.
    """

    def __init__(self, limit: float, price: Price, spent: float):
        self.limit, self.price, self.spent = limit, price, spent
        self._held: list[float] = []
        self._changed = threading.Condition()

    def check(self, cost: float, what: str = "the next request", do: str = "") -> None:
        """BudgetReached where `what` may cost more than is left; `do`: another way."""
        if self.spent + sum(self._held) + cost > self.limit:
            raise BudgetReached(
                f"the budget of {self.limit:g} {self.price.currency} allows no more "
                f"({self.spent:.4f} spent by this store; {what} may cost {cost:.4f}): "
                "what had arrived is stored; raise llm_max_cost (--max-cost) to go "
                f"on{do}"
            )

    @contextmanager
    def held(self, asked: int, answered: int) -> Iterator[list[int]]:
        """Hold back the cost of so many tokens; the block notes those that were used.

        Waits while others are held; BudgetReached where it does not fit even so.
        """
        cost, used = self.price.cost(asked, answered), [0, 0]
        with self._changed:
            while self._held and self.spent + sum(self._held) + cost > self.limit:
                self._changed.wait()
            self.check(cost)
            self._held.append(cost)
        try:
            yield used
        finally:
            with self._changed:
                self._held.remove(cost)
                self.spent += self.price.cost(*used)
                self._changed.notify_all()
