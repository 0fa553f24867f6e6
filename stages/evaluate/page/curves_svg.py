"""Curves over checkpoints: small charts, one per set, each written as an SVG element."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, NamedTuple

from data_schemas.evaluation_report import metric_prefix
from stages.components.report.numbers import share
from stages.evaluate.page.scatter_svg import COLOURS
from stages.evaluate.page.tables import CLASS_MEASURES, CLASS_TASKS, DIRECTIONS, ON_BACKBONE
from stages.evaluate.task_names import headline

_WIDTH, _HEIGHT = 320, 190
_LEFT, _RIGHT, _TOP, _BOTTOM = 30, 50, 10, 24
_LABEL_GAP = 13
_MAX_X_LABELS = 6
_STEPS = (0.1, 0.2, 0.5, 1, 2, 5, 10, 20, 25, 50)
_RECALL_K = 10


class Line(NamedTuple):
    """One measure over the checkpoints; None where a checkpoint has no such measure.

    Args:
        label: Label in the legend.
        colour: Colour of the line.
        is_dashed: Whether the line is dashed, as for what is measured on the backbone.
        values: One value per checkpoint.
    """

    label: str
    colour: str
    is_dashed: bool
    values: tuple[float | None, ...]

    @property
    def last(self) -> str:
        """The last known value, as text."""
        known = [value for value in self.values if value is not None]
        return share(known[-1]) if known else ""


class Place(NamedTuple):
    """Position of a checkpoint on the horizontal axis, in epochs, and its label there."""

    label: str
    x: float


@dataclass(frozen=True)
class Chart:
    """Curves of one set.

    Attributes:
        set_name: Name of the set in reports.
        measure: What all or most of the lines show.
        lines: Lines of the chart.
        svg: One element, to stand in the page as it is; text in it has the colour of the page's text.
    """

    set_name: str
    measure: str
    lines: tuple[Line, ...]
    svg: str


@dataclass(frozen=True)
class Curves:
    """All charts, and the checkpoints that they have in common, by name."""

    checkpoints: tuple[str, ...]
    charts: tuple[Chart, ...]


def find_curves(report: Mapping[str, Any]) -> Curves:
    """Draw the measures of a report's checkpoints as curves; no chart where it has fewer than two.

    Args:
        report: Report with ``checkpoints`` in order of epoch; one whose epoch is unknown stands behind the others.
    """
    checkpoints: Sequence[Mapping[str, Any]] = report.get("checkpoints", ())
    if len(checkpoints) < 2:
        return Curves((), ())
    names = tuple(checkpoint["name"] for checkpoint in checkpoints)
    lines: dict[tuple[str, str], list[Line]] = {}
    for entry in report["sets"]:
        if entry["task"] == "retrieval":
            lines[(entry["name"], "Recall, %")] = _recall_lines(entry, checkpoints)
        elif entry["task"] in CLASS_TASKS:
            lines.setdefault((entry["name"], f"{_class_measure(entry)}, %"), []).append(_class_line(entry, checkpoints))
    places = _places(checkpoints)
    charts = [
        Chart(name, measure, tuple(drawn), draw_chart(drawn, places=places, title=f"{name}: {measure}"))
        for (name, measure), drawn in lines.items()
        if any(value is not None for line in drawn for value in line.values)
    ]
    return Curves(names, tuple(charts))


def draw_chart(lines: Sequence[Line], *, places: Sequence[Place], title: str) -> str:
    """Draw lines with axes as one SVG element; the last value of each is written beside it.

    Args:
        lines: Lines to draw, at least one of them with a value.
        places: Places of the checkpoints, at least two different ones.
        title: Title, read out before the last values; any text, it is escaped.
    """
    known = [value for line in lines for value in line.values if value is not None]
    ticks = value_ticks(min(known), max(known))
    xs = [_across(place, places) for place in places]
    said = "; ".join(f"{line.label} {line.last}" for line in lines if line.last)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img"'
        f' aria-label="{escape(f"{title}, at the last checkpoint: {said}")}" font-size="11.5" fill="currentColor">',
        *(_grid_line(tick, ticks) for tick in ticks),
        *_x_labels(places, xs),
        *(_curve(line, xs, ticks) for line in reversed(lines)),
        *_last_labels(lines, ticks),
        "</svg>",
    ]
    return "".join(parts)


def value_ticks(low: float, high: float) -> list[float]:
    """Choose round values, at most six, from below the lowest to above the highest.

    Example:
        >>> value_ticks(12.0, 47.0)
        [10.0, 20.0, 30.0, 40.0, 50.0]
    """
    for step in _STEPS:
        first, last = math.floor(low / step), math.ceil(high / step)
        if last - first <= 5:
            break
    return [round(step * number, 6) for number in range(first, max(last, first + 1) + 1)]


def _recall_lines(entry: Mapping[str, Any], checkpoints: Sequence[Mapping[str, Any]]) -> list[Line]:
    measures = {"mean_recall": "mean recall"}
    measures |= {f"{way}/recall@{_RECALL_K}": f"{label}, R@{_RECALL_K}" for way, label in DIRECTIONS.items()}
    return [
        Line(label, colour, is_dashed=False, values=_values(f"{metric_prefix(entry)}/{measure}", checkpoints))
        for (measure, label), colour in zip(measures.items(), COLOURS, strict=False)
        if measure in entry["metrics"]
    ]


def _class_measure(entry: Mapping[str, Any]) -> str:
    return CLASS_MEASURES.get(headline(entry), headline(entry))


def _class_line(entry: Mapping[str, Any], checkpoints: Sequence[Mapping[str, Any]]) -> Line:
    task = entry["task"]
    is_backbone = task.endswith("_backbone")
    kinds = list(dict.fromkeys(CLASS_TASKS.values()))
    return Line(
        label=CLASS_TASKS[task] + (f", {ON_BACKBONE}" if is_backbone else ""),
        colour=COLOURS[kinds.index(CLASS_TASKS[task])],
        is_dashed=is_backbone,
        values=_values(f"{metric_prefix(entry)}/{headline(entry)}", checkpoints),
    )


def _values(metric: str, checkpoints: Sequence[Mapping[str, Any]]) -> tuple[float | None, ...]:
    return tuple(checkpoint["metrics"].get(metric) for checkpoint in checkpoints)


def _places(checkpoints: Sequence[Mapping[str, Any]]) -> list[Place]:
    """Put each checkpoint at its epoch; one whose epoch is unknown or taken goes behind all before it, by name."""
    places: list[Place] = []
    for checkpoint in checkpoints:
        epoch, behind = checkpoint["epoch"], 1 + max((place.x for place in places), default=0)
        is_new = epoch is not None and epoch not in {place.x for place in places}
        places.append(Place(str(epoch), epoch) if is_new else Place(checkpoint["name"], behind))
    return places


def _across(place: Place, places: Sequence[Place]) -> float:
    low, high = min(each.x for each in places), max(each.x for each in places)
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * (place.x - low) / (high - low)


def _up(value: float, ticks: Sequence[float]) -> float:
    return _HEIGHT - _BOTTOM - (_HEIGHT - _TOP - _BOTTOM) * (value - ticks[0]) / (ticks[-1] - ticks[0])


def _grid_line(tick: float, ticks: Sequence[float]) -> str:
    y = _up(tick, ticks)
    return (
        f'<path stroke="currentColor" stroke-opacity=".14" d="M{_LEFT} {y:.1f}H{_WIDTH - _RIGHT}"/>'
        f'<text x="{_LEFT - 6}" y="{y:.1f}" dy=".35em" text-anchor="end" fill-opacity=".72">{tick:g}</text>'
    )


def _x_labels(places: Sequence[Place], xs: Sequence[float]) -> list[str]:
    """Label the last checkpoint, and as many before it as have room."""
    stride = math.ceil(len(places) / _MAX_X_LABELS)
    return [
        f'<text x="{x:.1f}" y="{_HEIGHT - 7}" text-anchor="middle" fill-opacity=".72">{escape(place.label)}</text>'
        for number, (place, x) in enumerate(zip(places, xs, strict=True))
        if (len(places) - 1 - number) % stride == 0
    ]


def _curve(line: Line, xs: Sequence[float], ticks: Sequence[float]) -> str:
    points = [(x, _up(value, ticks)) for x, value in zip(xs, line.values, strict=True) if value is not None]
    path = "L".join(f"{x:.1f} {y:.1f}" for x, y in points)
    dots = "".join(f"M{x:.1f} {y:.1f}h0" for x, y in points)
    dashes = ' stroke-dasharray="4 3"' if line.is_dashed else ""
    return (
        f'<g fill="none" stroke="{line.colour}" stroke-linejoin="round" stroke-linecap="round">'
        f'<title>{escape(line.label)}</title><path stroke-width="2"{dashes} d="M{path}"/>'
        f'<path stroke-width="5" d="{dots}"/></g>'
        if points
        else ""
    )


def _last_labels(lines: Sequence[Line], ticks: Sequence[float]) -> list[str]:
    """Write the last values, moved apart where they would overlap."""
    known = [(line, [value for value in line.values if value is not None]) for line in lines]
    wanted = sorted((_up(values[-1], ticks), place) for place, (_, values) in enumerate(known) if values)
    heights: list[float] = []
    for y, _ in wanted:
        heights.append(max(y, heights[-1] + _LABEL_GAP) if heights else y)
    lowest = float(_HEIGHT - _BOTTOM)
    for place in reversed(range(len(heights))):
        heights[place] = min(heights[place], lowest)
        lowest = heights[place] - _LABEL_GAP
    return [
        f'<path stroke="{known[place][0].colour}" stroke-width="3" d="M{_WIDTH - _RIGHT + 9} {y:.1f}h6"/>'
        f'<text x="{_WIDTH - _RIGHT + 19}" y="{y:.1f}" dy=".35em" font-weight="600">{known[place][0].last}</text>'
        for y, (_, place) in zip(heights, wanted, strict=True)
    ]
