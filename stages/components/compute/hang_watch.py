"""Notice that a process hangs in its own work, and end it, so that those that wait for it hear of it."""

import os
import threading
from collections.abc import Iterable, Iterator
from typing import Self, TypeVar

from pipeline.log import log

LOOK_S = 5.0
LOOKS = 120  # not seconds, which pass while a machine sleeps or a job is suspended

T = TypeVar("T")


class HangWatch:
    """A thread that ends this process if it stays with one batch for ten minutes.

    For processes that others wait for, without a word between them, however long their work takes. The end of one is
    noticed by all. A wait for a batch does not count: its loader looks after it.

    Args:
        is_on: Whether others wait for this process; without them nothing is watched.
        look_s: Seconds between looks.
        looks: Number of looks in a row that must find it where it was.
    """

    def __init__(self, *, is_on: bool, look_s: float = LOOK_S, looks: int = LOOKS) -> None:
        self._is_on, self._look_s, self._looks = is_on, look_s, looks
        self._closed = threading.Event()
        self._is_at_work, self._num_turns = False, 0

    def __enter__(self) -> Self:
        if self._is_on:
            threading.Thread(target=self._watch, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()

    def over(self, batches: Iterable[T]) -> Iterator[T]:
        """Yield batches; whoever takes one is watched until he asks for the next."""
        for batch in batches:
            self._turn()
            yield batch
            self._is_at_work = False
        self._turn()  # what is left to do behind the last one

    def _turn(self) -> None:
        self._num_turns += 1
        self._is_at_work = True

    def _watch(self) -> None:
        last_turn, num_looks = -1, 0
        while not self._closed.wait(self._look_s):
            num_looks = num_looks + 1 if self._is_at_work and self._num_turns == last_turn else 0
            last_turn = self._num_turns
            if num_looks == self._looks:
                log.error(
                    "Process %d must be done with a batch within %.0f minutes, for others wait for it; it hangs, and "
                    "is ended. The same command goes on from what is whole, with a smaller --batch-size if one takes "
                    "that long.",
                    os.getpid(), self._looks * self._look_s / 60,
                )  # fmt: skip
                os._exit(1)
