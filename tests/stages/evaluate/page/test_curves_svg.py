import re
from itertools import pairwise
from typing import Any
from xml.etree import ElementTree

import pytest
from page_samples import full_report

from stages.evaluate.page.curves_svg import Line, Place, draw_chart, find_curves, value_ticks

SVG = "{http://www.w3.org/2000/svg}"
PLACES = [Place("1", 1), Place("2", 2), Place("4", 4)]


def a_line(*values: float | None, label: str = "zero-shot", is_dashed: bool = False) -> Line:
    return Line(label, "#2f7fc1", is_dashed, values)


def points(svg: str) -> list[list[tuple[float, float]]]:
    """Return those of each curve, as they are drawn: the last line first."""
    groups = ElementTree.fromstring(svg).iter(f"{SVG}g")
    paths = [next(group.iter(f"{SVG}path")).attrib["d"] for group in groups]
    return [[(float(x), float(y)) for x, y in re.findall(r"([\d.]+) ([\d.]+)", path)] for path in paths]


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


def test_curves__are_one_chart_a_set() -> None:
    curves = find_curves(full_report())
    assert curves.checkpoints == ("epoch_1", "epoch_2", "epoch_4")
    assert [(chart.set_name, chart.measure) for chart in curves.charts] == [
        ("test", "Recall, %"),
        ("discs", "Class mean, %"),
    ]
    assert [line.label for line in curves.charts[0].lines] == [
        *("mean recall", "caption → image, R@10", "image → caption, R@10")
    ]
    tasks = {line.label: line for line in curves.charts[1].lines}
    assert len(tasks) == 5
    knn, backbone = tasks["nearest neighbours"], tasks["nearest neighbours, on the backbone"]
    assert knn.colour == backbone.colour != tasks["linear probe"].colour
    assert (knn.is_dashed, backbone.is_dashed) == (False, True)


def test_curves__take_the_values_of_the_checkpoints() -> None:
    report = full_report()
    values = find_curves(report).charts[0].lines[0].values
    assert values == tuple(checkpoint["metrics"]["test/mean_recall"] for checkpoint in report["checkpoints"])


@pytest.mark.parametrize("checkpoints", [[], [{"name": "last", "epoch": None, "metrics": {"test/mean_recall": 1.0}}]])
def test_curves__need_two_checkpoints(checkpoints: list[dict[str, Any]]) -> None:
    assert find_curves({**full_report(), "checkpoints": checkpoints}).charts == ()
    report = {key: value for key, value in full_report().items() if key != "checkpoints"}
    assert find_curves(report).charts == ()


def test_curves__leave_sets_without_values_out() -> None:
    report = full_report()
    for checkpoint in report["checkpoints"]:
        checkpoint["metrics"] = {"test/mean_recall": 1.0}
    assert [chart.set_name for chart in find_curves(report).charts] == ["test"]


def test_curves__put_a_checkpoint_of_unknown_epoch_behind_the_others() -> None:
    report = full_report()
    metrics = {"test/mean_recall": 10.0}
    report["checkpoints"] = [
        {"name": name, "epoch": epoch, "metrics": metrics}
        for name, epoch in (("epoch_1", 1), ("epoch_3", 3), ("last", None), ("again", 3))
    ]
    svg = find_curves(report).charts[0].svg
    xs = [x for x, _ in points(svg)[-1]]
    steps = [later - earlier for earlier, later in pairwise(xs)]
    assert steps == pytest.approx([2 * steps[1], steps[1], steps[1]], abs=0.2)
    assert {"1", "3", "last", "again"} <= set(texts(svg))


def test_chart__is_to_scale() -> None:
    [drawn] = points(draw_chart([a_line(10.0, 20.0, 40.0)], places=PLACES, title="test"))
    (x1, y1), (x2, y2), (x4, y4) = drawn
    assert (x4 - x1) == pytest.approx(3 * (x2 - x1), abs=0.2)
    assert (y1 - y4) == pytest.approx(3 * (y1 - y2), abs=0.2)
    assert y4 < y1  # up is better


def test_chart__passes_over_a_checkpoint_without_a_value() -> None:
    svg = draw_chart([a_line(None, None, None), a_line(10.0, None, 40.0)], places=PLACES, title="test")
    assert [len(drawn) for drawn in points(svg)] == [2]
    assert svg.count("40.0</text>") == 1


def test_chart__writes_the_last_values_without_overlap() -> None:
    lines = [a_line(10.0, 20.0, value, label=str(value)) for value in (50.0, 49.9, 49.8, 12.0, 11.9)]
    svg = ElementTree.fromstring(draw_chart(lines, places=PLACES, title="test"))
    labels = [element for element in svg.iter(f"{SVG}text") if element.get("font-weight") == "600"]
    assert [label.text for label in labels] == ["50.0", "49.9", "49.8", "12.0", "11.9"]
    heights = [float(label.attrib["y"]) for label in labels]
    assert all(later - earlier >= 12.9 for earlier, later in pairwise(heights))
    assert max(heights) <= 166


def test_chart__stands_equal_values() -> None:
    [drawn] = points(draw_chart([a_line(10.0, 10.0, 10.0)], places=PLACES, title="test"))
    assert len({y for _, y in drawn}) == 1


def test_chart__dashes_what_is_measured_on_the_backbone() -> None:
    assert "stroke-dasharray" in draw_chart([a_line(1, 2, 3, is_dashed=True)], places=PLACES, title="test")
    assert "stroke-dasharray" not in draw_chart([a_line(1, 2, 3)], places=PLACES, title="test")


def test_chart__labels_few_of_many_checkpoints_and_always_the_last() -> None:
    places = [Place(str(epoch), epoch) for epoch in range(1, 101)]
    svg = draw_chart([a_line(*map(float, range(100)))], places=places, title="test")
    labels = [element.text for element in ElementTree.fromstring(svg).iter(f"{SVG}text") if element.get("y") == "183"]
    assert labels == ["15", "32", "49", "66", "83", "100"]


def test_chart__escapes_title_and_labels() -> None:
    evil = '"><script>alert(1)</script>'
    svg = draw_chart([a_line(1.0, 2.0, label=evil)], places=[Place(evil, 1), Place("2", 2)], title=evil)
    element = ElementTree.fromstring(svg)
    assert not list(element.iter(f"{SVG}script"))
    assert element.attrib["aria-label"] == f"{evil}, at the last checkpoint: {evil} 2.00"
    assert evil in texts(svg)


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [(12.0, 47.0, [10, 20, 30, 40, 50]), (0.0, 100.0, [0, 20, 40, 60, 80, 100]), (50.0, 50.0, [50, 50.1])],
)
def test_value_ticks__are_round_and_hold_all_values(low: float, high: float, ticks: list[float]) -> None:
    assert value_ticks(low, high) == ticks
