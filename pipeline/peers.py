"""Several processes that run one stage together, as torchrun starts them: the first decides and writes."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

from data_schemas.errors import ProtoRKDError


class Peers(Protocol):
    """This process among those that run the stage with it."""

    @property
    def is_first(self) -> bool:
        """Whether this is the process that plans, locks, writes and commits."""

    def broadcast(self, value: Any) -> Any:
        """Return the first process's value in all of them; the others wait for it, however long it takes."""

    def gather_objects(self, value: Any) -> list[Any]:
        """Return every process's value, in their order; all wait for the last, however long it takes."""

    def leave(self) -> None:
        """Part from the others."""


JoinPeers = Callable[[], Peers]


class Alone:
    """The only process."""

    is_first = True

    def broadcast(self, value: Any) -> Any:
        """Return the value."""
        return value

    def gather_objects(self, value: Any) -> list[Any]:
        """Return the value, as the only one."""
        return [value]

    def leave(self) -> None:
        """There is nobody to part from."""


@contextmanager
def fail_together(peers: Peers) -> Iterator[None]:
    """Fail in all processes where the block fails in one: at its end they wait for one another.

    Every process must come here, with nothing between that waits for the others; what is no user's error ends the
    process at once, which the others notice.

    Raises:
        ProtoRKDError: the block raised it, here or elsewhere; the same everywhere, that of the first that has one.
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
    """How many processes the launcher started; 1 without one."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first_process() -> bool:
    """Whether this is the launcher's first process; true without a launcher."""
    return num_processes() == 1 or os.environ.get("RANK", "0") == "0"
