"""Processes that run one stage together, as torchrun starts them: the first one decides and writes."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from data_schemas.errors import ProtoRKDError


class Peers(Protocol):
    """The processes that run a stage together, seen from this one."""

    @property
    def is_first(self) -> bool:
        """Whether this is the process that plans, locks, writes and commits."""

    def broadcast(self, value: Any) -> Any:
        """Return the first process's value in all of them; the others wait for it, however long it takes."""

    def gather_objects(self, value: Any) -> list[Any]:
        """Return every process's value, in their order; all wait for the last, however long it takes."""

    def leave(self) -> None:
        """Leave the group of processes."""


JoinPeers = Callable[[], Peers]


class SingleProcess:
    """The peers of a process that runs a stage alone."""

    is_first = True

    def broadcast(self, value: Any) -> Any:
        """Return the value."""
        return value

    def gather_objects(self, value: Any) -> list[Any]:
        """Return the value, as the only one."""
        return [value]

    def leave(self) -> None:
        """Do nothing: there is nobody to leave."""


@contextmanager
def fail_together(peers: Peers) -> Iterator[None]:
    """Fail in all processes if the block fails in one: at its end they wait for one another.

    Every process must come here, with nothing between that waits for the others. An error that no user can mend ends
    the process at once, which the others notice.

    Raises:
        ProtoRKDError: the block raised it, here or elsewhere; all processes raise that of the first that failed.
    """
    own: ProtoRKDError | None = None
    try:
        yield
    except ProtoRKDError as error:
        own = error
    _share_errors(peers, own)


def barrier(peers: Peers) -> None:
    """Wait until every process is here, or at the end of a block of `fail_together`; an error raised there comes out.

    Raises:
        ProtoRKDError: such a block raised it elsewhere; that of the first process that has one.
    """
    _share_errors(peers, None)


def _share_errors(peers: Peers, own: ProtoRKDError | None) -> None:
    """Wait for all processes, and raise the error of the first that has one."""
    texts = [text for text in peers.gather_objects(None if own is None else str(own)) if text is not None]
    if own is not None and str(own) == texts[0]:
        raise own
    if texts:
        raise ProtoRKDError(texts[0]) from own


def num_processes() -> int:
    """Return how many processes the launcher started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Tell whether this is the launcher's first process; true without a launcher."""
    return num_processes() == 1 or os.environ.get("RANK", "0") == "0"


def one_of_many() -> bool:
    """Tell whether a launcher says that it has started others by the same command: torchrun, SLURM or Kubernetes."""
    sizes = (os.environ.get(name, "") for name in ("WORLD_SIZE", "SLURM_ARRAY_TASK_COUNT", "SLURM_STEP_NUM_TASKS"))
    return "JOB_COMPLETION_INDEX" in os.environ or any(size.isdigit() and int(size) > 1 for size in sizes)
