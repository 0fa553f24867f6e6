"""Charts of several students: lines and dots with whiskers, each chart one SVG element in the colours of the page."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import NamedTuple

_WIDTH, _HEIGHT = 440, 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 42, 14, 12, 26
_NICE = (1, 2, 2.5, 5, 10)
_LOG_RATIO = 5  # between the largest and the smallest value, from which on an axis is logarithmic
_LABEL_WIDTH = 7  # of a character, about
_DODGE = 5  # pixels between dots that would hide one another


class Point(NamedTuple):
    """A point of a chart, with the ends of its interval where they are known."""

    x: float
    y: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Series:
    """Points in one colour.

    Args:
        label: What they are of, shown when the mouse rests on them; any text, it is escaped.
        colour: Colour of the points and of the line.
        points: The points, in the order in which a line joins them.
        is_line: Whether a line joins them; otherwise each is a dot with a whisker over its interval.
    """

    label: str
    colour: str
    points: tuple[Point, ...]
    is_line: bool = True


@dataclass(frozen=True)
class Axis:
    """A horizontal axis.

    Args:
        ticks: Values that have a label, with their labels.
        place: Function from a value to where it lies, from 0 to 1.
    """

    ticks: tuple[tuple[float, str], ...]
    place: Callable[[float], float]


def epoch_axis(last: float) -> Axis:
    """Make an axis from 0 to the last epoch, with round ticks between them, whole ones where there are several."""
    ticks = [tick for tick in round_ticks(0, last) if tick <= last and (last < 2 or tick == int(tick))]
    return Axis(tuple((tick, f"{tick:g}") for tick in ticks), lambda value: value / last)


def value_axis(values: Sequence[float]) -> Axis:
    """Make an axis whose ticks are the values; it is logarithmic where they are positive and lie far apart."""
    known = sorted(set(values))
    is_log = known[0] > 0 and known[-1] / known[0] >= _LOG_RATIO
    scale: Callable[[float], float] = math.log if is_log else float
    low, high = scale(known[0]), scale(known[-1])
    room = 0.08 * (high - low) if high > low else 1.0  # so that no dot lies on the frame
    low, high = low - room, high + room

    def place(value: float) -> float:
        return (scale(value) - low) / (high - low)

    ticks: list[tuple[float, str]] = []
    for value in known:  # those that would overlap the label before them have none
        label = f"{value:g}"
        room_px = (place(value) - place(ticks[-1][0])) * (_WIDTH - _LEFT - _RIGHT) if ticks else math.inf
        if room_px > _LABEL_WIDTH * (len(label) + 1):
            ticks.append((value, label))
    return Axis(tuple(ticks), place)


def name_axis(names: Sequence[str]) -> Axis:
    """Make an axis of names, the values 0, 1, ..., evenly spread; long names are cut."""
    most = max(4, int((_WIDTH - _LEFT - _RIGHT) / len(names) / _LABEL_WIDTH))
    short = [name if len(name) <= most else f"{name[: most - 1]}…" for name in names]
    return Axis(tuple(enumerate(short)), lambda value: (value + 0.5) / len(names))


def round_ticks(low: float, high: float, *, most: int = 6) -> list[float]:
    """Choose round values, from below the lowest to above the highest.

    Example:
        >>> round_ticks(0.4, 5.2)
        [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    """
    span = high - low or abs(high) or 1.0
    unit = 10.0 ** math.floor(math.log10(span / most))
    step = next(unit * nice for nice in _NICE if unit * nice * most >= span * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, max(last, first + 1) + 1)]


def draw_chart(series: Sequence[Series], *, axis: Axis, title: str) -> str:
    """Draw series over one axis as one SVG element.

    Args:
        series: Series to draw, the first on top; at least one of them has a point.
        axis: Horizontal axis.
        title: Title, read out in the chart's place; any text, it is escaped.
    """
    points = [point for each in series for point in each.points]
    ends = [end for point in points for end in (point.y, point.low, point.high) if end is not None]
    ticks = round_ticks(min(ends), max(ends))

    def across(value: float) -> float:
        return _LEFT + (_WIDTH - _LEFT - _RIGHT) * axis.place(value)

    def up(value: float) -> float:
        return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (value - ticks[0]) / (ticks[-1] - ticks[0])

    shifts = _dodged(series)
    drawn = [
        _line(each, across, up) if each.is_line else _dots(each, across, up, shifts)
        for each in reversed(series)
        if each.points
    ]
    return "".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"'
            f' aria-label="{escape(title)}" font-size="12" fill="currentColor">',
            *(_grid_line(tick, up(tick)) for tick in ticks),
            *(_axis_label(label, across(value)) for value, label in axis.ticks),
            *drawn,
            "</svg>",
        ]
    )


def _grid_line(tick: float, y: float) -> str:
    return (
        f'<path stroke="currentColor" stroke-opacity=".14" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>'
        f'<text x="{_LEFT - 6}" y="{y:.1f}" dy=".35em" text-anchor="end" fill-opacity=".72">{tick:g}</text>'
    )


def _axis_label(label: str, x: float) -> str:
    return (
        f'<text x="{x:.1f}" y="{_HEIGHT - 8}" text-anchor="middle" fill-opacity=".72">{escape(label)}</text>'
        f'<path stroke="currentColor" stroke-opacity=".3" d="M{x:.1f} {_HEIGHT - _BOTTOM}v4"/>'
    )


def _line(series: Series, across: Callable[[float], float], up: Callable[[float], float]) -> str:
    path = "L".join(f"{across(point.x):.1f} {up(point.y):.1f}" for point in series.points)
    return (
        f'<path fill="none" stroke="{series.colour}" stroke-width="1.75" stroke-linejoin="round"'
        f' stroke-linecap="round" d="M{path}"><title>{escape(series.label)}</title></path>'
    )


def _dots(
    series: Series,
    across: Callable[[float], float],
    up: Callable[[float], float],
    shifts: dict[tuple[int, int], float],
) -> str:
    drawn = []
    for place, point in enumerate(series.points):
        x, y = across(point.x) + shifts[id(series), place], up(point.y)
        whisker = ""
        if point.low is not None and point.high is not None:
            whisker = f'<path stroke-width="1.5" d="M{x:.1f} {up(point.low):.1f}V{up(point.high):.1f}"/>'
        drawn.append(f'{whisker}<path stroke-width="8" d="M{x:.1f} {y:.1f}h0"/>')
    return (
        f'<g fill="none" stroke="{series.colour}" stroke-linecap="round"><title>{escape(series.label)}</title>'
        f"{''.join(drawn)}</g>"
    )


def _dodged(series: Sequence[Series]) -> dict[tuple[int, int], float]:
    """Shift dots of one place sideways, by series and number of the point, so that none hides another."""
    at: dict[float, list[tuple[int, int]]] = {}
    for each in series:
        for place, point in enumerate(() if each.is_line else each.points):
            at.setdefault(point.x, []).append((id(each), place))
    return {key: _DODGE * (number - (len(keys) - 1) / 2) for keys in at.values() for number, key in enumerate(keys)}
