"""Several processes that run one stage together, as torchrun starts them: the first decides and writes."""

import os
from collections.abc import Callable
from typing import Any, Protocol


class Peers(Protocol):
    """This process among those that run the stage with it."""

    @property
    def is_first(self) -> bool:
        """Whether this is the process that plans, locks, writes and commits."""

    def broadcast(self, value: Any) -> Any:
        """Return the first process's value in all of them; the others wait for it, however long it takes."""

    def leave(self) -> None:
        """Part from the others."""


JoinPeers = Callable[[], Peers]


class Alone:
    """The only process."""

    is_first = True

    def broadcast(self, value: Any) -> Any:
        """Return the value."""
        return value

    def leave(self) -> None:
        """There is nobody to part from."""


def num_processes() -> int:
    """How many processes the launcher started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Whether this is the launcher's first process; true without a launcher."""
    return num_processes() == 1 or os.environ.get("RANK", "0") == "0"
