"""Several processes as one: `accelerate launch -m nbutils train …` (or `mine`)."""

import os
from collections.abc import Callable
from typing import Any

import torch
from accelerate import PartialState, utils

from nbutils.core.errors import LabError


def place() -> tuple[int, int]:
    """(number of this process, how many there are), as the launcher set them.

    The first call joins the processes, and gives each its own device.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        return 0, 1
    cpu = utils.parse_flag_from_env("ACCELERATE_USE_CPU")
    state = PartialState(cpu=cpu or not torch.cuda.is_available())
    return state.process_index, state.num_processes


def is_main() -> bool:
    """Whether this process is the one that writes and evaluates."""
    return place()[0] == 0


def share(count: int) -> range:
    """Which of `count` pieces of work are this process's: every so-manieth one."""
    number, processes = place()
    return range(number, count, processes)


def wait() -> None:
    """Wait until every process is here."""
    if place()[1] > 1:
        PartialState().wait_for_everyone()


def gather(value: Any) -> list[Any]:
    """Every process's value (any that pickles), in the order of their numbers."""
    return utils.gather_object([value]) if place()[1] > 1 else [value]


def add_up(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of every process's tensor, on all of them."""
    return utils.reduce(tensor, "sum") if place()[1] > 1 else tensor


def from_main(make: Callable[[], Any]) -> Any:
    """What `make` returns on the main process, on all of them; so is its LabError."""
    try:
        found = [make() if is_main() else None]
    except LabError as error:
        found = [error]
    if place()[1] > 1:
        utils.broadcast_object_list(found)
    if isinstance(found[0], LabError):
        raise found[0]
    return found[0]
