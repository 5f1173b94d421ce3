"""Several processes as one: `accelerate launch -m nbutils train …` (or `mine`).

In training every process knows the whole batch of a step, encodes its share of the
mini-batches, and ends the step with the same gradients. One process needs none of this.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from nbutils.core.errors import LabError


def place() -> tuple[int, int]:
    """(number of this process, how many there are), as the launcher set them."""
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return 0, 1
    return _state().process_index, _state().num_processes


def is_main() -> bool:
    """Whether this process is the one that writes and evaluates."""
    return place()[0] == 0


def wait() -> None:
    """Wait until every process is here."""
    if place()[1] > 1:
        _state().wait_for_everyone()


def gather(value: Any) -> list[Any]:
    """Every process's value (any that pickles), in the order of their numbers."""
    if place()[1] == 1:
        return [value]
    from accelerate.utils import gather_object

    _state()
    return gather_object([value])


def from_main(make: Callable[[], Any]) -> Any:
    """What `make` returns on the main process, on all of them; so is its LabError."""
    found: list[Any] = [None, None]
    if is_main():
        try:
            found[0] = make()
        except LabError as error:
            found[1] = str(error)
    if place()[1] > 1:
        from accelerate.utils import broadcast_object_list

        broadcast_object_list(found)
    value, problem = found
    if problem is not None:
        raise LabError(problem)
    return value


def share(count: int) -> range:
    """Which of `count` pieces of work are this process's: every so-manieth one."""
    number, processes = place()
    return range(number, count, processes)


def _state():
    """accelerate's one state; it joins the processes when it is first made."""
    from accelerate import PartialState
    from accelerate.utils import parse_flag_from_env

    cpu = parse_flag_from_env("ACCELERATE_USE_CPU") or not torch.cuda.is_available()
    return PartialState(cpu=cpu)


def add_up(tensor: Tensor) -> Tensor:
    """The sum of every process's tensor, on all of them."""
    if place()[1] == 1:
        return tensor
    from accelerate.utils import reduce

    return reduce(tensor, "sum")
