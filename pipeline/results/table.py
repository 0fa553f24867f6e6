"""Choose the columns that tell rows apart, and mark the best figures."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from pipeline.results.columns import find_metric, headline_metrics, text_of
from pipeline.results.rows import ResultRow

_MOST_METRICS = 6
NAME = "fingerprint"


@dataclass(frozen=True)
class Cell:
    """A cell as text, and whether it is the best of its column."""

    text: str
    is_best: bool = False


@dataclass(frozen=True)
class ResultTable:
    """Rows with the columns that are worth showing.

    Args:
        rows: Rows of the table.
        options: Options in which the rows differ, by name.
        metrics: Metrics that are shown, by name.
        facts: Facts that are shown, by name.
        notes: What one must know to read it, a sentence each.
    """

    rows: tuple[ResultRow, ...]
    options: tuple[str, ...]
    metrics: tuple[str, ...]
    facts: tuple[str, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def header(self) -> list[str]:
        """Names of the columns."""
        return [NAME, *self.options, *self.metrics, *self.facts]

    @property
    def num_left(self) -> int:
        """Number of columns that are texts, which stand at the left."""
        return 1 + len(self.options)

    def cells(self) -> list[list[Cell]]:
        """Write the cells of all rows, in the order of the header."""
        best = {name: best_rows(self.rows, name) for name in self.metrics}
        lines = []
        for place, row in enumerate(self.rows):
            options = [text_of(row.options[name]) if name in row.options else "" for name in self.options]
            figures = [Cell(str(row.figures.get(name, "")), place in best[name]) for name in self.metrics]
            lines.append(
                [Cell(row.name), *map(Cell, options), *figures, *(Cell(fact_text(row, name)) for name in self.facts)]
            )
        return lines


def result_table(
    rows: Sequence[ResultRow],
    *,
    metrics: Sequence[str] = (),
    known: Sequence[ResultRow] = (),
    flag: str = "--metric",
) -> ResultTable:
    """Lay rows out: the options in which they differ, the metrics that they are judged by, and what they took.

    Args:
        rows: Rows in the order in which they are shown.
        metrics: Metrics to show, by the end of their names; none shows those that the rows are judged by.
        known: All rows that were chosen from, one of which must have each metric; none for the rows themselves.
        flag: Option of the command line that names metrics, for the message.

    Raises:
        ProtoRKDError: no row has such a metric.
    """
    headlines = headline_metrics(rows) or list(dict.fromkeys(name for row in rows for name in row.figures))
    chosen = [find_metric(known or rows, name, flag=flag) for name in metrics] or headlines[:_MOST_METRICS]
    options = differing_options(rows) or list(dict.fromkeys(name for row in rows for name in row.told))
    facts = dict.fromkeys(name for row in rows for name in row.facts)
    num_more = 0 if metrics else len(headlines) - len(chosen)
    notes = [note for name in chosen if (note := _different_sets(rows, name))]
    if any(best_rows(rows, name) for name in chosen):
        notes.insert(0, "* the best of its column.")
    if any(figure.low is not None for row in rows for name, figure in row.figures.items() if name in chosen):
        notes.append("In brackets 95 % intervals over images like these; they say nothing of other seeds.")
    if any(len(row.artifacts) > 1 for row in rows):
        notes.append("± is the standard deviation over the runs of a row.")
    if num_more:
        notes.append(f"{num_more} more such metrics are not shown: choose by {flag}.")
    return ResultTable(tuple(rows), tuple(options), tuple(chosen), tuple(facts), tuple(notes))


def differing_options(rows: Sequence[ResultRow]) -> list[str]:
    """List the options in which rows differ, in the order in which they are declared."""
    names = dict.fromkeys(name for row in rows for name in row.options)
    return [name for name in names if len({text_of(row.options.get(name)) for row in rows}) > 1]


def best_rows(rows: Sequence[ResultRow], metric: str) -> set[int]:
    """Return the places of the rows that are best in a metric; none where all are equal, or none is the better."""
    known = {place: row.figures[metric] for place, row in enumerate(rows) if metric in row.figures}
    values = {figure.goodness() for figure in known.values()}
    if len(values) < 2 or not next(iter(known.values())).better:
        return set()
    best = max(values)
    return {place for place, figure in known.items() if figure.goodness() == best}


def fact_text(row: ResultRow, name: str) -> str:
    """Write a fact of a row: numbers with thousands, a small one that is not whole with a decimal; "" for none."""
    value = row.facts.get(name)
    if not isinstance(value, int | float):
        return "" if value is None else str(value)
    return f"{value:,.0f}" if value == int(value) or value >= 10 else f"{value:.1f}"


def _different_sets(rows: Sequence[ResultRow], metric: str) -> str:
    sets = dict.fromkeys(row.figures[metric].measured_on for row in rows if metric in row.figures)
    if len(sets) < 2:
        return ""
    return f"{metric} was measured on sets of different sizes ({'; '.join(sets)}): not to be compared among these rows."
