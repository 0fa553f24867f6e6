"""Two things at a time: what comes next is made ready, and what is done is put away, while the work goes on."""

import contextlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

A = TypeVar("A")
B = TypeVar("B")
P = ParamSpec("P")


def ahead(function: Callable[[A], B], items: Iterable[A]) -> Iterator[B]:
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


@contextlib.contextmanager
def behind(function: Callable[P, object]) -> Iterator[Callable[P, None]]:
    """Yield a stand-in for a function that returns at once: a thread does the call, one at a time and in order.

    A call waits for the one before it, so that no more than one is ever owed; leaving waits for the last, also when the
    block itself has failed.

    Raises:
        Whatever a call raises, in the next call or on leaving.
    """
    with ThreadPoolExecutor(max_workers=1) as pool:
        owed: deque[Future[object]] = deque()

        def call(*args: P.args, **kwargs: P.kwargs) -> None:
            if owed:
                owed.popleft().result()
            owed.append(pool.submit(function, *args, **kwargs))

        yield call
        if owed:
            owed.popleft().result()
