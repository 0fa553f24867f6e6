"""Ctrl-C and SIGTERM, which a preempted machine sends: answer and report them before the process ends."""

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar

_until_told: ContextVar[ExitStack | None] = ContextVar("_until_told", default=None)


@contextmanager
def command_signals() -> Iterator[None]:
    """Let SIGTERM interrupt a command as Ctrl-C does, until its error has been printed.

    A second SIGTERM ends the process at once. Outside the main thread signals are left alone.
    """
    with ExitStack() as until_told:
        token = _until_told.set(until_told)
        until_told.callback(_until_told.reset, token)
        if threading.current_thread() is threading.main_thread():
            until_told.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, _interrupt))
        yield


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """Yield an event that SIGINT and SIGTERM set, so that the current step can be finished and saved.

    A second signal of the same kind acts as it did before. An error that leaves the block is printed first: until then
    a signal, such as torchrun's when another process has failed, does not end this process. Outside the main thread
    signals are left alone.
    """
    event = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = {int(number): signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def stop(number: int, _frame: object) -> None:
        event.set()
        signal.signal(number, before[number])

    with ExitStack() as handlers:
        for number, handler in before.items():
            handlers.callback(signal.signal, number, handler)
            signal.signal(number, stop)
        try:
            yield event
        except Exception:
            if (until_told := _until_told.get()) is not None:
                until_told.push(handlers.pop_all())
            raise


def _interrupt(number: int, _frame: object) -> None:
    signal.signal(number, signal.SIG_DFL)
    raise KeyboardInterrupt
