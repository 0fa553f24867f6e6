"""Charts as SVG: axes, ticks, and where points come to lie."""

import re
from xml.etree import ElementTree

import pytest

from stages.evaluate.runs.charts import (
    Point,
    Series,
    draw_chart,
    epoch_axis,
    name_axis,
    round_ticks,
    value_axis,
)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.4, 5.2, [0, 1, 2, 3, 4, 5, 6]),
        (24.4, 33.8, [24, 26, 28, 30, 32, 34]),
        (0.0, 1234.0, [0, 250, 500, 750, 1000, 1250]),
        (0.001, 0.004, [0.001, 0.0015, 0.002, 0.0025, 0.003, 0.0035, 0.004]),
        (-3.0, 9.0, [-4, -2, 0, 2, 4, 6, 8, 10]),
    ],
)
def test_round_ticks__enclose_the_values(low: float, high: float, ticks: list[float]) -> None:
    found = round_ticks(low, high)
    assert found == pytest.approx(ticks)


@pytest.mark.parametrize("value", [0.0, 7.0, -2.5, 1e-6])
def test_round_ticks__enclose_a_single_value(value: float) -> None:
    ticks = round_ticks(value, value)
    assert ticks[0] <= value <= ticks[-1]
    assert len(ticks) > 1


def test_value_axis__is_logarithmic_where_values_lie_far_apart() -> None:
    axis = value_axis([1e-3, 1e-2, 1e-1])
    assert [label for _, label in axis.ticks] == ["0.001", "0.01", "0.1"]
    places = [axis.place(value) for value, _ in axis.ticks]
    assert places[1] - places[0] == pytest.approx(places[2] - places[1])
    near = value_axis([1.0, 2.0, 4.0])
    assert near.place(2.0) - near.place(1.0) == pytest.approx((near.place(4.0) - near.place(2.0)) / 2)
    assert value_axis([0.0, 0.5]).ticks == ((0.0, "0"), (0.5, "0.5"))
    assert value_axis([3.0]).place(3.0) == pytest.approx(0.5)


def test_value_axis__leaves_out_labels_that_would_overlap() -> None:
    axis = value_axis([1.0, 1.0001, 2.0])
    assert [label for _, label in axis.ticks] == ["1", "2"]


def test_epoch_axis__has_whole_epochs_where_there_are_several() -> None:
    assert [label for _, label in epoch_axis(3.0).ticks] == ["0", "1", "2", "3"]
    assert [label for _, label in epoch_axis(20.0).ticks] == ["0", "5", "10", "15", "20"]
    assert len(epoch_axis(0.5).ticks) > 2
    assert epoch_axis(4.0).place(3.0) == 0.75


def test_name_axis__spreads_names_and_cuts_long_ones() -> None:
    axis = name_axis(["linear", "m" * 80])
    assert axis.ticks[0] == (0, "linear")
    assert axis.ticks[1][1].endswith("…")
    assert [axis.place(0), axis.place(1)] == [0.25, 0.75]


def test_draw_chart__draws_lines_and_dots_with_whiskers() -> None:
    line = Series("<loss>", "#111111", (Point(0, 5.0), Point(1, 3.0), Point(2, 2.0)))
    dots = [Series(f"run {n}", "#222222", (Point(1.0, 4.0, 3.0, 5.0),), is_line=False) for n in range(2)]
    svg = draw_chart([line, *dots], axis=epoch_axis(2), title='a "chart"')
    root = ElementTree.fromstring(svg)
    assert root.attrib["aria-label"] == 'a "chart"'
    titles = [element.text for element in root.iter() if element.tag.endswith("title")]
    assert titles == ["run 1", "run 0", "<loss>"]  # the first lies on top
    paths = re.findall(r'stroke-width="1.75"[^>]* d="M([^"]*)"', svg)
    heights = [float(point.split()[1]) for point in paths[0].split("L")]
    assert heights == sorted(heights)  # smaller values lie lower
    xs = re.findall(r'<path stroke-width="8" d="M([\d.]+) ', svg)
    assert len(set(xs)) == 2  # two dots of one place lie beside one another
    assert svg.count('stroke-width="1.5"') == 2
