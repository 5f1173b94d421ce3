"""How fast a server may be asked, and for how much money."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from nbutils.errors import LabError
from nbutils.prices import Price


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
