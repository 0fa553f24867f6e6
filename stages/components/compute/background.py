"""Two things at a time: what comes next is made ready, and what is done is put away, while the work goes on."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, ParamSpec, TypeVar

A = TypeVar("A")
B = TypeVar("B")
P = ParamSpec("P")


def prefetch(function: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
    """Yield the function's result for each item, in order; a thread makes the next one while the last is used.

    Raises:
        Whatever the function raises, when its item's turn has come.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting: deque[Future[B]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 1:
                yield waiting.popleft().result()
        if waiting:
            yield waiting.popleft().result()


class Behind(Generic[P]):
    """A stand-in for a function that returns at once; made by `write_behind`."""

    def __init__(self, function: Callable[P, object], pool: ThreadPoolExecutor) -> None:
        self._function, self._pool = function, pool
        self._owed: Future[object] | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Let the thread do the call."""
        self.settle()
        self._owed = self._pool.submit(self._function, *args, **kwargs)

    def settle(self) -> None:
        """Wait for the call that is owed.

        Raises:
            Whatever it raises.
        """
        owed, self._owed = self._owed, None
        if owed is not None:
            owed.result()

    def check(self) -> None:
        """Wait for nothing.

        Raises:
            Whatever the call that is owed has raised.
        """
        if self._owed is not None and self._owed.done():
            self.settle()


@contextlib.contextmanager
def write_behind(function: Callable[P, object]) -> Iterator[Behind[P]]:
    """Yield a stand-in for a function that returns at once: a thread does the call, one at a time and in order.

    A call waits for the one before it, so that no more than one is ever owed; leaving waits for the last, also when the
    block itself has failed.

    Raises:
        Whatever a call raises, in the next call or on leaving.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        call = Behind(function, pool)
        yield call
        call.settle()
