"""Write the page of students, one HTML file: table, learning curves, options, a baseline, and images ranked apart."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.options.values import options_of
from pipeline.results.columns import text_of
from pipeline.results.figure import Figure
from pipeline.results.rows import ResultRow
from pipeline.results.table import ResultTable, best_rows, differing_options, fact_text
from pipeline.stage import AnyStage
from pipeline.store.store import Store
from stages.components.report import numbers as page_numbers
from stages.components.report.html import page_template
from stages.components.report.thumbnails import stand_in
from stages.evaluate.page.render import FILTERS
from stages.evaluate.page.scatter_svg import COLOURS, OTHER_COLOUR
from stages.evaluate.runs.baseline import Baseline, choose_baseline, hold_against, read_outcomes_of
from stages.evaluate.runs.curves import learning_curves, option_charts
from stages.evaluate.runs.rank_changes import RankChanges, find_rank_changes

_MEAN_RECALL = "/mean_recall"


@dataclass(frozen=True)
class FigureCell:
    """A figure of the page's table.

    Args:
        figure: The figure.
        is_best: Whether it is the best of its column.
        share: Length of its bar, from 0 to 100, where the best of the column is 100; None for none.
        ends: Ends of its interval on the same scale, where they are known.
    """

    figure: Figure
    is_best: bool
    share: float | None
    ends: tuple[float, float] | None


def write_runs_page(
    table: ResultTable, students: Sequence[ResultRow], *, baseline: str | None, stages: Sequence[AnyStage], store: Store
) -> str:
    """Write the page: one HTML file that loads nothing and runs nothing; all text in it is escaped.

    Args:
        table: Table of the students, or of groups of them.
        students: Rows of one student each, in the order in which they are drawn.
        baseline: Student that the others are held against; None takes the first made.
        stages: Declarations of all stages.
        store: Store of the students.

    Raises:
        ProtoRKDError: the baseline is none of the students.
    """
    colours, options = _colours(table), _differing_texts(students)
    labels = {name: ", ".join(filter(None, (text, name))) for name, text in options.items()}
    metric = table.metrics[0] if table.metrics else ""
    chosen = choose_baseline(students, baseline, metric)
    held = None if chosen is None else hold_against(chosen, students, metric, store=store)
    drawn = {"colours": colours, "labels": labels}
    charts, not_drawn = option_charts(students, metric, **drawn)
    changes = None if held is None else _rank_changes(held, store)
    template = page_template(
        __package__, "page.html", {**FILTERS, "text": text_of, "gain": _gain}, also=("stages.evaluate.page",)
    )
    return template.render(
        table=table,
        cells=[_cells(table, place) for place in range(len(table.rows))],
        facts=[[fact_text(row, name) for name in table.facts] for row in table.rows],
        students=students,
        shared=_shared_options(students, stages),
        curves=learning_curves(students, store=store, **drawn),
        option_charts=charts,
        not_drawn=not_drawn,
        metric=metric,
        options=options,
        baseline=held,
        changes=changes,
        stand_in=stand_in(),
        other_colour=OTHER_COLOUR,
        **drawn,
    )


def _colours(table: ResultTable) -> dict[str, str]:
    """Give each of the first rows a colour, which all artifacts of the row have; the others share one."""
    return {
        artifact.record.fingerprint[:12]: COLOURS[place] if place < len(COLOURS) else OTHER_COLOUR
        for place, row in enumerate(table.rows)
        for artifact in row.artifacts
    }


def _differing_texts(students: Sequence[ResultRow]) -> dict[str, str]:
    """Write the options in which students differ, by the name of each student."""
    names = differing_options(students)
    return {row.name: ", ".join(f"{name} {text_of(row.options.get(name))}" for name in names) for row in students}


def _cells(table: ResultTable, place: int) -> list[FigureCell | None]:
    return [_cell(table, name, place) for name in table.metrics]


def _cell(table: ResultTable, metric: str, place: int) -> FigureCell | None:
    figure = table.rows[place].figures.get(metric)
    if figure is None:
        return None
    is_best = place in best_rows(table.rows, metric)
    column = [row.figures[metric] for row in table.rows if metric in row.figures]
    most = max(each.value if each.high is None else each.high for each in column)
    if figure.better != "higher" or figure.value < 0 or most <= 0:
        return FigureCell(figure, is_best, None, None)
    scale = 100 / most
    ends = None if figure.low is None or figure.high is None else (max(0, figure.low) * scale, figure.high * scale)
    return FigureCell(figure, is_best, figure.value * scale, ends)


def _shared_options(students: Sequence[ResultRow], stages: Sequence[AnyStage]) -> dict[str, Any]:
    """Return the options that all students have in common and that are not at their defaults."""
    by_name = {stage.name: stage for stage in stages}
    defaults = {
        name.replace("_", "-"): text_of(known.field.default)
        for row in students[:1]
        for name, known in options_of(by_name[row.artifacts[0].record.stage]).items()
    }
    differing = set(differing_options(students))
    options = students[0].options if students else {}
    return {
        name: value
        for name, value in options.items()
        if name in defaults and name not in differing and text_of(value) not in (defaults[name], "none")
    }


def _rank_changes(held: Baseline, store: Store) -> RankChanges | None:
    """Compare ranks with the best of the others, where students are judged by retrieval."""
    measured = [each for each in held.against if each.difference]
    if not held.metric.endswith(_MEAN_RECALL) or not measured:
        return None
    best = max(measured, key=lambda each: each.student.figures[held.metric].value)
    pair = [read_outcomes_of(row, held.metric, store) for row in (held.student, best.student)]
    first, second = pair
    if isinstance(first, str) or isinstance(second, str):
        return None
    return find_rank_changes(first, second, set_name=held.metric.removesuffix(_MEAN_RECALL), store=store)


def _gain(difference: float) -> str:
    return page_numbers.signed(f"{difference:+.2f}")
