"""Charts of a page of students: learning curves over one another, and a metric against each option that differs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

from data_schemas.errors import ProtoRKDError
from data_schemas.training_log import TRAINING_LOG, curve_of, read_training_log
from pipeline.log import log
from pipeline.results.columns import as_number, sort_key, text_of
from pipeline.results.rows import ResultRow
from pipeline.results.table import differing_options
from pipeline.store.store import Artifact, Store
from stages.evaluate.page.scatter_svg import OTHER_COLOUR
from stages.evaluate.runs.charts import Axis, Point, Series, draw_chart, epoch_axis, name_axis, value_axis

CURVES = {"loss": "Training loss", "validation/mean_recall": "Mean recall on held-out images, %"}
_MOST_OPTIONS = 8
_MOST_NAMES = 12


@dataclass(frozen=True)
class Chart:
    """A chart of the page: its title, a note on how to read it, or "", and the SVG element."""

    title: str
    note: str
    svg: str


def learning_curves(
    students: Sequence[ResultRow], *, store: Store, colours: Mapping[str, str], labels: Mapping[str, str]
) -> list[Chart]:
    """Draw what trainings logged over their epochs, a line for each student; nothing where no log can be read.

    Args:
        students: Rows of one student each, the first on top.
        store: Store that logs are read from.
        colours: Colour of each student, by its name.
        labels: What each student is called, by its name.
    """
    lines = {row.name: _read_log(row.artifacts[0], store) for row in students}
    charts = []
    for name, title in CURVES.items():
        curves = {student: curve for student, each in lines.items() if len(curve := curve_of(each, name)) > 1}
        if curves:
            series = [
                Series(labels[student], colours[student], tuple(Point(*point) for point in curve))
                for student, curve in curves.items()
            ]
            last = max(point.x for each in series for point in each.points)
            note = "by epoch" if len(curves) == len(lines) else f"by epoch; {len(curves)} of {len(lines)} logged it"
            charts.append(Chart(title, note, draw_chart(series, axis=epoch_axis(last), title=title)))
    return charts


def option_charts(
    students: Sequence[ResultRow], metric: str, *, colours: Mapping[str, str], labels: Mapping[str, str]
) -> tuple[list[Chart], list[str]]:
    """Draw a metric against each option in which students differ, a dot for each student.

    Args:
        students: Rows of one student each; those without the metric are left out.
        metric: Metric to draw.
        colours: Colour of each student, by its name.
        labels: What each student is called, by its name.

    Returns:
        The charts, and the options that have none: too many names on one axis, or too many options.
    """
    measured = [row for row in students if metric in row.figures]
    charts: list[Chart] = []
    left_out = []
    for option in differing_options(measured):
        xs, axis = _placed(measured, option)
        if axis is None or len(charts) == _MOST_OPTIONS:
            left_out.append(option)
            continue
        dots = [
            Series(labels[row.name], colours[row.name], (_point(x, row, metric),), is_line=False)
            for x, row in zip(xs, measured, strict=True)
        ]
        values = {
            x: mean(row.figures[metric].value for at, row in zip(xs, measured, strict=True) if at == x) for x in xs
        }
        trend = Series("mean", OTHER_COLOUR, tuple(Point(x, values[x]) for x in sorted(values)))
        svg = draw_chart([*dots, trend], axis=axis, title=f"{metric} by {option}")
        charts.append(Chart(option, "", svg))
    return charts, left_out


def _placed(rows: Sequence[ResultRow], option: str) -> tuple[list[float], Axis | None]:
    """Return where rows lie by an option's value, and the axis; None where it has too many names to be shown."""
    values = [row.options.get(option) for row in rows]
    numbers = [None if isinstance(value, str) else as_number(value) for value in values]
    known = [number for number in numbers if number is not None]
    if len(known) == len(values):
        return known, value_axis(known)
    names = list(dict.fromkeys(map(text_of, sorted(values, key=sort_key))))
    if len(names) > _MOST_NAMES:
        return [], None
    return [float(names.index(text_of(value))) for value in values], name_axis(names)


def _point(x: float, row: ResultRow, metric: str) -> Point:
    figure = row.figures[metric]
    return Point(x, figure.value, figure.low, figure.high)


def _read_log(artifact: Artifact, store: Store) -> list[dict[str, float]]:
    try:
        return read_training_log(store.read_file(artifact, TRAINING_LOG))
    except ProtoRKDError as error:
        log.warning("%s is shown without its curves: %s", artifact.name, error)
        return []
