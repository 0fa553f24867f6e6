"""Progress: a bar with rate and time left on a terminal, a plain line every few seconds otherwise."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

from pipeline.log import log, shows_bars
from pipeline.terminal import printable_line

PLAIN_INTERVAL_S = 10.0


@contextlib.contextmanager
def progress(label: str, *, total: int, unit: str, done: int = 0) -> Iterator[Callable[[int], None]]:
    """Show how far a loop has come, on stderr.

    Args:
        label: Name of the work.
        total: Number of units to do.
        unit: Name of the units, in the plural.
        done: Number of units done before, by an earlier run.

    Yields:
        A function to call with the number of units just done, from any thread.
    """
    label = printable_line(label)
    if shows_bars():
        with _bar(label, total, done) as advance:
            yield _one_at_a_time(advance)
        return
    yield _one_at_a_time(_PlainProgress(label, total, unit, done).advance)


def _one_at_a_time(advance: Callable[[int], None]) -> Callable[[int], None]:
    lock = threading.Lock()

    def locked(units: int) -> None:
        with lock:
            advance(units)

    return locked


class _PlainProgress:
    def __init__(self, label: str, total: int, unit: str, done: int) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._done = self._done_before = done
        self._start = self._shown = time.monotonic()

    def advance(self, units: int) -> None:
        self._done += units
        now = time.monotonic()
        if now - self._shown >= PLAIN_INTERVAL_S:
            self._shown = now
            rate = (self._done - self._done_before) / (now - self._start)
            left_s = (self._total - self._done) / rate if rate else 0.0
            log.info(
                "%s: %d of %d %s, %s, %.0f s left",
                self._label, self._done, self._total, self._unit, _per_second(rate), left_s,
            )  # fmt: skip


@contextlib.contextmanager
def _bar(label: str, total: int, done: int) -> Iterator[Callable[[int], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"))
    start = time.monotonic()
    with Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=total, completed=done, rate="")
        so_far = 0

        def advance(units: int) -> None:
            nonlocal so_far
            so_far += units
            rate = so_far / max(time.monotonic() - start, 1e-9)
            bar.update(task, advance=units, rate=_per_second(rate))

        yield advance


def _per_second(rate: float) -> str:
    return f"{rate:.0f}/s" if rate >= 10 else f"{rate:.2f}/s"
