"""Find the column that a name means among rows: an option, a fact, or a metric, which may lack its first parts."""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from data_schemas.errors import ProtoRKDError
from pipeline.options.values import unknown
from pipeline.results.rows import ResultRow

_CONDITION = re.compile(r"\s*(?P<name>[^=<>!]+?)\s*(?P<operator><=|>=|!=|=|<|>)\s*(?P<value>.*?)\s*", re.DOTALL)
_ORDERED: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": lambda value, limit: value < limit,
    ">": lambda value, limit: value > limit,
    "<=": lambda value, limit: value <= limit,
    ">=": lambda value, limit: value >= limit,
}


@dataclass(frozen=True)
class Column:
    """A column of rows.

    Args:
        name: Whole name of the column.
        values: Function that returns a row's value; None where the row has none.
        is_metric: Whether it is a metric.
    """

    name: str
    values: Callable[[ResultRow], Any]
    is_metric: bool = False


def find_column(rows: Sequence[ResultRow], name: str, *, flag: str) -> Column:
    """Find the column that a user names.

    Args:
        rows: Rows that have it; a name that none of them knows is a mistake.
        name: Option, fact, or metric; of a metric its last parts are enough where they tell which is meant.
        flag: Option of the command line that names it, for the message.

    Raises:
        ProtoRKDError: no row has such a column, or the end of a name fits more than one metric.
    """
    dashed = name.replace("_", "-")
    if any(dashed in row.options for row in rows):
        return Column(dashed, lambda row: row.options.get(dashed))
    if any(name in row.facts for row in rows):
        return Column(name, lambda row: row.facts.get(name))
    metric = find_metric(rows, name, flag=flag)
    return Column(metric, lambda row: row.figures[metric].value if metric in row.figures else None, is_metric=True)


def find_metric(rows: Sequence[ResultRow], name: str, *, flag: str) -> str:
    """Find the whole name of a metric that a user names, as `find_column` does."""
    metrics = dict.fromkeys(metric for row in rows for metric in row.figures)
    fitting = [metric for metric in metrics if metric == name] or [
        metric for metric in metrics if metric.endswith(f"/{name}")
    ]
    if len(fitting) > 1:
        raise ProtoRKDError(f"{flag} must name one metric; {name!r} fits {', '.join(fitting)}. Name one of them.")
    if not fitting:
        known = dict.fromkeys(key for row in rows for key in (*row.options, *row.facts))
        raise unknown(name, [*known, *metrics], what="an option or a metric of these artifacts", place=flag)
    return fitting[0]


def keep_rows(rows: Sequence[ResultRow], conditions: Sequence[str], *, flag: str = "--where") -> list[ResultRow]:
    """Keep the rows that fulfil all conditions.

    Args:
        rows: Rows to choose from.
        conditions: Conditions such as ``lr=0.002``, ``mean_recall>30``, ``loss!=simreg=1``. Numbers are compared as
            numbers, all else as it is shown in tables. A row without a value fulfils ``!=`` alone.
        flag: Option of the command line that gives them, for the message.

    Raises:
        ProtoRKDError: a condition has no such form, names what no row has, or asks for the order of what is no number.
    """
    kept = list(rows)
    for condition in conditions:
        match = _CONDITION.fullmatch(condition)
        if match is None:
            raise ProtoRKDError(
                f"{flag} must be a name, one of = != < > <= >=, and a value; got {condition!r}. Write it as in "
                f"{flag} 'lr=0.002'."
            )
        column = find_column(rows, match["name"], flag=flag)
        holds = _test(match["operator"], match["value"], condition, flag)
        kept = [row for row in kept if holds(column.values(row))]
    return kept


def sort_rows(
    rows: Sequence[ResultRow], name: str | None, *, known: Sequence[ResultRow] = (), flag: str = "--sort"
) -> list[ResultRow]:
    """Sort rows by a column: metrics with the best first, all else ascending; rows without a value come last.

    Args:
        rows: Rows in their present order, which those that are equal keep.
        name: Column to sort by; None takes the first metric that the rows are judged by, if there is one.
        known: All rows that were chosen from, one of which must have the column; none for the rows themselves.
        flag: Option of the command line that names it, for the message.
    """
    if name is None:
        headlines = headline_metrics(rows)
        return sort_rows(rows, headlines[0], flag=flag) if headlines else list(rows)
    column = find_column(known or rows, name, flag=flag)
    sorted_rows = [row for row in rows if column.values(row) is not None]
    rest = [row for row in rows if column.values(row) is None]
    if column.is_metric:
        sorted_rows.sort(key=lambda row: -row.figures[column.name].goodness())
    else:
        sorted_rows.sort(key=lambda row: sort_key(column.values(row)))
    return sorted_rows + rest


def headline_metrics(rows: Sequence[ResultRow]) -> list[str]:
    """List the metrics that rows are usually judged by, in the order of the first row that has most of them."""
    by_row = [[name for name, figure in row.figures.items() if figure.is_headline] for row in rows]
    return list(dict.fromkeys(name for names in sorted(by_row, key=len, reverse=True) for name in names))


def sort_key(value: Any) -> tuple[int, float, str]:
    """Return what numbers sort by as numbers, before texts."""
    number = as_number(value)
    return (1, 0.0, text_of(value)) if number is None else (0, number, "")


def as_number(value: Any) -> float | None:
    """Return a number, also one written as text; None for anything else, truth values included."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None


def text_of(value: Any) -> str:
    """Write the value of an option or fact as tables show it: ``none``, ``0.002``, ``infonce=1+proto-rkd=0.5``."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, list | tuple):
        return "+".join(map(text_of, value)) or "none"
    return "none" if value in (None, "") else str(value)


def _test(operator: str, wanted: str, condition: str, flag: str) -> Callable[[Any], bool]:
    limit = as_number(wanted)
    if operator in _ORDERED:
        if limit is None:
            raise ProtoRKDError(f"{flag} must compare by {operator} with a number; got {condition!r}.")
        compare = _ORDERED[operator]
        return lambda value: (number := as_number(value)) is not None and compare(number, limit)

    def is_equal(value: Any) -> bool:
        number = None if isinstance(value, str) else as_number(value)
        return number == limit if number is not None and limit is not None else text_of(value) == wanted

    if operator == "=":
        return lambda value: value is not None and is_equal(value)
    return lambda value: not is_equal(value)
