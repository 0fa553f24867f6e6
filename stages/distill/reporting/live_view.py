"""Show a training to the user: a small table on a terminal, lines of the log elsewhere."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping
from itertools import zip_longest
from types import TracebackType
from typing import Protocol

from rich.console import Console, Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from pipeline.log import log, shows_bars
from pipeline.progress import progress

_REFRESH_S = 0.25
_SPEED_OVER_S = 120.0
_NO_TERMS = {"step", "epoch", "loss", "lr", "grad_norm", "images_per_s", "data_wait_share", "skipped_steps"}
_VALIDATION = "validation/"


class View(Protocol):
    """Shows a training as it goes."""

    def advance(self) -> None:
        """Count a step."""

    def show(self, line: Mapping[str, float]) -> None:
        """Show a line of metrics: one of training, or one whose names begin with ``validation/``."""


@contextlib.contextmanager
def open_view(*, total_steps: int, done: int) -> Iterator[View]:
    """Open the view that suits stderr.

    Args:
        total_steps: Steps of the whole training.
        done: Steps that an earlier run took.
    """
    if shows_bars():
        with LiveView(Console(stderr=True), total_steps=total_steps, done=done) as view:
            yield view
        return
    with progress("distilling", total=total_steps, unit="steps", done=done) as advance:
        yield LogView(advance)


class LogView:
    """A line of the log for every line of metrics.

    Args:
        advance: Function that is told of every step.
    """

    def __init__(self, advance: Callable[[int], None]) -> None:
        self._advance = advance

    def advance(self) -> None:
        """Count a step."""
        self._advance(1)

    def show(self, line: Mapping[str, float]) -> None:
        """Log it."""
        figures = _figures(line)
        if figures:
            log.info("distill: %s", _sentence(line, figures))
            return
        terms = _terms(line)
        parts = f" ({', '.join(f'{name} {value:.5f}' for name, value in terms.items())})" if len(terms) > 1 else ""
        log.info(
            "distill: step %d, epoch %.2f, loss %.5f%s, lr %.2e, gradient norm %.2f, %.0f images/s, "
            "%.0f %% of the time waiting for data",
            line["step"], line["epoch"], line["loss"], parts, line["lr"], line["grad_norm"], line["images_per_s"],
            100 * line["data_wait_share"],
        )  # fmt: skip


class LiveView:
    """A table that stays at the foot of the terminal while the log passes above it, and remains afterwards.

    No thread draws it: it is drawn when there is news.

    Args:
        console: Terminal to draw on.
        total_steps: Steps of the whole training.
        done: Steps that an earlier run took.
    """

    def __init__(self, console: Console, *, total_steps: int, done: int) -> None:
        self._bar = Progress(
            TextColumn("distilling"), BarColumn(), MofNCompleteColumn(), TextColumn("steps,"), TimeRemainingColumn(),
            TextColumn("left"), console=console, auto_refresh=False, speed_estimate_period=_SPEED_OVER_S,
        )  # fmt: skip
        self._task = self._bar.add_task("", total=total_steps, completed=done)
        self._training: Mapping[str, float] = {}
        self._validation: Mapping[str, float] = {}
        self._drawn = 0.0
        self._live = Live(console=console, get_renderable=self._render, auto_refresh=False, redirect_stdout=False)

    def __enter__(self) -> "LiveView":
        """Draw it for the first time."""
        self._live.start(refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Draw it for the last time."""
        self._live.stop()

    def advance(self) -> None:
        """Count a step."""
        self._bar.advance(self._task)
        if time.monotonic() - self._drawn >= _REFRESH_S:
            self._draw()

    def show(self, line: Mapping[str, float]) -> None:
        """Put a line into the table; a line of validation also goes to the log, which keeps them all."""
        if figures := _figures(line):
            self._validation = line
            log.info("distill: %s", _sentence(line, figures))
        else:
            self._training = line
        self._draw()

    def _draw(self) -> None:
        self._drawn = time.monotonic()
        self._live.refresh()

    def _render(self) -> Group:
        parts = [self._bar.get_renderable()]
        if self._training:
            parts.append(_training_table(self._training))
        if self._validation:
            parts.append(_validation_table(self._validation))
        return Group(*parts)


def _training_table(line: Mapping[str, float]) -> Table:
    terms = _terms(line)
    left = [("epoch", f"{line['epoch']:.2f}"), ("loss", f"{line['loss']:.5f}")]
    if len(terms) > 1:
        left += [(f"  {name}", f"{value:.5f}") for name, value in terms.items()]
    right = [
        ("learning rate", f"{line['lr']:.2e}"),
        ("gradient norm", f"{line['grad_norm']:.2f}"),
        ("images/s", f"{line['images_per_s']:,.0f}"),
        ("waiting for data", f"{100 * line['data_wait_share']:.0f} %"),
    ]
    table = Table.grid(padding=(0, 3, 0, 0))
    for justify in ("left", "right", "left", "right"):
        table.add_column(justify=justify, no_wrap=True)
    for one, other in zip_longest(left, right, fillvalue=("", "")):
        table.add_row(Text(one[0], "dim"), one[1], Text(other[0], "dim"), other[1])
    return table


def _validation_table(line: Mapping[str, float]) -> Table:
    """Lay out validation: a row for each direction, a column for each measure."""
    figures = _figures(line)
    by_direction: dict[str, dict[str, float]] = {}
    for name, value in figures.items():
        direction, slash, measure = name.partition("/")
        if slash:
            by_direction.setdefault(direction, {})[measure] = value
    measures = list(dict.fromkeys(measure for values in by_direction.values() for measure in values))
    table = Table.grid(padding=(0, 3, 0, 0))
    for index in range(1 + len(measures)):
        table.add_column(justify="right" if index else "left", no_wrap=True)
    mean = f", mean recall {figures['mean_recall']:.1f}" if "mean_recall" in figures else ""
    heads = [measure.replace("_", " ") for measure in measures]
    table.add_row(*(Text(head, "dim") for head in (f"validation, epoch {line['epoch']:g}{mean}", *heads)))
    for direction, values in by_direction.items():
        cells = [f"{values[measure]:.1f}" if measure in values else "" for measure in measures]
        table.add_row(f"  {direction.replace('_', ' ')}", *cells)
    return table


def _terms(line: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in line.items() if name not in _NO_TERMS}


def _figures(line: Mapping[str, float]) -> dict[str, float]:
    return {name.removeprefix(_VALIDATION): value for name, value in line.items() if name.startswith(_VALIDATION)}


def _sentence(line: Mapping[str, float], figures: Mapping[str, float]) -> str:
    return f"epoch {line['epoch']:g}, validation: {', '.join(f'{name} {value:.4g}' for name, value in figures.items())}"
