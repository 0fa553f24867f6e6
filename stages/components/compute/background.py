"""Run one thread beside the work: it prepares the next item (`prefetch`) or writes the last one (`write_behind`)."""

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
        Whatever the function raises, when the item is asked for.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        waiting: deque[Future[B]] = deque()
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > 1:
                yield waiting.popleft().result()
        if waiting:
            yield waiting.popleft().result()


class BackgroundFunction(Generic[P]):
    """A function that a thread runs, so that a call returns at once; made by `write_behind`."""

    def __init__(self, function: Callable[P, object], pool: ThreadPoolExecutor) -> None:
        self._function, self._pool = function, pool
        self._pending: Future[object] | None = None

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """Hand the call to the thread, after waiting for the one before it."""
        self.settle()
        self._pending = self._pool.submit(self._function, *args, **kwargs)

    def settle(self) -> None:
        """Wait for the pending call.

        Raises:
            Whatever that call raises.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def check(self) -> None:
        """Raise the error of a call that has failed, without waiting for one that still runs.

        Raises:
            Whatever the pending call has raised.
        """
        if self._pending is not None and self._pending.done():
            self.settle()


@contextlib.contextmanager
def write_behind(function: Callable[P, object]) -> Iterator[BackgroundFunction[P]]:
    """Yield a stand-in for a function that returns at once: a thread runs the calls, one at a time and in order.

    A call waits for the one before it, so that at most one is pending; leaving waits for the last, also when the block
    itself has failed.

    Raises:
        Whatever a call raises, in the next call or on leaving.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        call = BackgroundFunction(function, pool)
        yield call
        call.settle()
