"""The log: one line when a stage starts, skips and ends, on stderr."""

import logging
import os
import sys

from pipeline.terminal import printable

log = logging.getLogger("protorkd")


class _StderrHandler(logging.StreamHandler):  # type: ignore[type-arg]
    """A handler that writes to the current ``sys.stderr``, so that a captured stderr receives it."""

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


class _Formatter(logging.Formatter):
    """A formatter for terminals: names and captions in a line cannot give them orders."""

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def show_log(*, quiet: bool = False) -> None:
    """Send the log's lines to stderr, only warnings if ``quiet``; calling it again changes nothing."""
    if not log.handlers:
        handler = _StderrHandler()
        handler.setFormatter(_Formatter("%(message)s"))
        log.addHandler(handler)
        log.propagate = False
    log.setLevel(logging.WARNING if quiet else logging.INFO)


def is_quiet() -> bool:
    """Tell whether only warnings are shown, and no progress."""
    return not log.isEnabledFor(logging.INFO)


def shows_bars() -> bool:
    """Tell whether stderr is a terminal that can redraw lines, and progress is wanted."""
    return sys.stderr.isatty() and os.environ.get("TERM", "") not in ("dumb", "unknown") and not is_quiet()
