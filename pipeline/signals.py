"""Ctrl-C and SIGTERM, which a preempted machine sends: answer and report them before the process ends."""

import signal
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar

_until_told: ContextVar[ExitStack | None] = ContextVar("_until_told", default=None)
_stop: ContextVar[threading.Event | None] = ContextVar("_stop", default=None)


@contextmanager
def command_signals() -> Iterator[None]:
    """Let SIGTERM interrupt a command as Ctrl-C does, until its error has been printed.

    A second SIGTERM ends the process at once. Outside the main thread signals are left alone.
    """
    with ExitStack() as until_told:
        token, stop_token = _until_told.set(until_told), _stop.set(threading.Event())
        until_told.callback(_until_told.reset, token)
        until_told.callback(_stop.reset, stop_token)
        if threading.current_thread() is threading.main_thread():
            until_told.callback(signal.signal, signal.SIGTERM, signal.signal(signal.SIGTERM, _interrupt))
        yield


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """Yield an event that SIGINT and SIGTERM set, so that the current step can be finished and saved.

    A second signal of the same kind acts as it did before. An error that leaves the block is printed first: until then
    a signal, such as torchrun's when another process has failed, does not end this process. A signal that comes too
    late for the block to answer it is not lost: the command begins nothing more (`stop_is_asked`), and outside a
    command it acts as it did before, once the block has ended. Outside the main thread signals are left alone.
    """
    event = _stop.get() or threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield event
        return
    before = {int(number): signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    received: list[int] = []

    def stop(number: int, _frame: object) -> None:
        event.set()
        received.append(number)
        signal.signal(number, before[number])

    with ExitStack() as handlers:
        token = _stop.set(event)
        handlers.callback(_stop.reset, token)
        for number, handler in before.items():
            handlers.callback(signal.signal, number, handler)
            signal.signal(number, stop)
        try:
            yield event
        except Exception:
            if (until_told := _until_told.get()) is not None:
                until_told.push(handlers.pop_all())
            raise
    if received and _until_told.get() is None:
        signal.raise_signal(received[0])


def stop_is_asked() -> bool:
    """Tell whether a signal has asked the current command, or the block of `stop_requests` around, to stop."""
    event = _stop.get()
    return event is not None and event.is_set()


def _interrupt(number: int, _frame: object) -> None:
    if (event := _stop.get()) is not None:
        event.set()  # the error is lost where it is raised in a callback of a library; then this tells
    signal.signal(number, signal.SIG_DFL)
    raise KeyboardInterrupt
