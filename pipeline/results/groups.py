"""Make one row of those that differ in an option alone, such as the seed: means, and standard deviations."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import mean, stdev
from typing import Any

from pipeline.fingerprint import hash_json
from pipeline.results.columns import find_column
from pipeline.results.figure import Figure
from pipeline.results.rows import ResultRow, mean_fact


def group_rows(
    rows: Sequence[ResultRow], names: Sequence[str], *, known: Sequence[ResultRow] = (), flag: str = "--group-by"
) -> list[ResultRow]:
    """Make one row of those that differ in these options alone.

    A figure is the mean over the runs that have it, with their sample standard deviation; the interval of a single run
    is left out where there are several.

    Args:
        rows: Rows of one artifact each.
        names: Options to group by; none leaves the rows as they are.
        known: All rows that were chosen from, one of which must have each option; none for the rows themselves.
        flag: Option of the command line that names them, for the message.

    Raises:
        ProtoRKDError: no row has such an option.
    """
    if not names:
        return list(rows)
    left_out = {find_column(known or rows, name, flag=flag).name for name in names}
    groups: dict[str, list[ResultRow]] = {}
    for row in rows:
        kept = {name: value for name, value in row.options.items() if name not in left_out}
        groups.setdefault(hash_json([row.artifacts[0].record.stage, kept]), []).append(row)
    return [_together(group, left_out) for group in groups.values()]


def _together(rows: Sequence[ResultRow], left_out: set[str]) -> ResultRow:
    if len(rows) == 1:
        return replace(rows[0], options=_without(rows[0].options, left_out))
    names = dict.fromkeys(name for row in rows for name in row.figures)
    return ResultRow(
        artifacts=tuple(artifact for row in rows for artifact in row.artifacts),
        options=_without(rows[0].options, left_out),
        figures={name: _mean([row.figures[name] for row in rows if name in row.figures]) for name in names},
        facts={name: mean_fact([row.facts.get(name) for row in rows]) for name in rows[0].facts},
        evaluations=tuple(each for row in rows for each in row.evaluations),
        told=tuple(name for name in rows[0].told if name not in left_out),
    )


def _without(options: Mapping[str, Any], left_out: set[str]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if name not in left_out}


def _mean(figures: Sequence[Figure]) -> Figure:
    if len(figures) == 1:
        return figures[0]
    values = [figure.value for figure in figures]
    return Figure(
        value=mean(values),
        std=stdev(values),
        num_runs=len(values),
        better=figures[0].better,
        is_headline=figures[0].is_headline,
        measured_on="; ".join(dict.fromkeys(figure.measured_on for figure in figures)),
    )
