"""Write a table of results: for a terminal, as CSV, Markdown, LaTeX or JSON."""

import csv
import io
from collections.abc import Callable, Mapping, Sequence

from pipeline.results.columns import text_of
from pipeline.results.rows import as_json, flat
from pipeline.results.table import Cell, ResultTable
from pipeline.terminal import aligned

_FORMULA_STARTS = ("=", "+", "-", "@", "\t", "\r")
_TEX = str.maketrans(
    {
        **{letter: f"\\{letter}" for letter in "&%$#_{}"},
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "±": r"$\pm$",
        "<": r"$<$",
        ">": r"$>$",
    }
)


def as_text(table: ResultTable) -> str:
    """Write aligned columns, a star behind the best figures, and the notes below."""
    body = [[f"{cell.text} *" if cell.is_best else cell.text for cell in line] for line in table.cells()]
    starred = {place for line in table.cells() for place, cell in enumerate(line) if cell.is_best}
    padded = [
        [
            f"{cell}  " if place in starred and cell and not cell.endswith(" *") else cell
            for place, cell in enumerate(line)
        ]
        for line in body
    ]
    header = [f"{name}  " if place in starred else name for place, name in enumerate(table.header)]
    lines = aligned([header, *padded], num_left=table.num_left)
    return "\n".join([*lines, *(["", *table.notes] if table.notes else [])])


def as_csv(table: ResultTable) -> str:
    """Write all columns of all rows as numbers, not those of the table alone; for spreadsheets and scripts."""
    rows = [flat(row) for row in table.rows]
    names = dict.fromkeys(name for row in rows for name in row)
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([guarded(name) for name in names])
    writer.writerows([[_csv_value(row.get(name)) for name in names] for row in rows])
    return text.getvalue().rstrip("\n")


def as_markdown(table: ResultTable) -> str:
    """Write a table of Markdown, the best figures bold."""

    def line(cells: Sequence[str]) -> str:
        return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"

    rule = ["---"] * table.num_left + ["---:"] * (len(table.header) - table.num_left)
    body = [[f"**{cell.text}**" if cell.is_best else cell.text for cell in cells] for cells in table.cells()]
    return "\n".join([line(table.header), f"|{'|'.join(rule)}|", *map(line, body)])


def as_tex(table: ResultTable) -> str:
    """Write a tabular of LaTeX with the rules of booktabs, the best figures bold."""

    def write(cell: Cell) -> str:
        text = cell.text.translate(_TEX)
        return rf"\textbf{{{text}}}" if cell.is_best else text

    columns = "l" * table.num_left + "r" * (len(table.header) - table.num_left)
    body = [" & ".join(map(write, cells)) + r" \\" for cells in table.cells()]
    header = " & ".join(name.translate(_TEX) for name in table.header) + r" \\"
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", header, r"\midrule", *body, r"\bottomrule"]
    return "\n".join([*lines, r"\end{tabular}"])


FORMATS: Mapping[str, Callable[[ResultTable], str]] = {
    "table": as_text,
    "csv": as_csv,
    "md": as_markdown,
    "tex": as_tex,
    "json": lambda table: as_json(table.rows),
}


def guarded(text: str) -> str:
    """Put an apostrophe before a text that a spreadsheet would take for a formula."""
    return f"'{text}" if text.startswith(_FORMULA_STARTS) else text


def _csv_value(value: object) -> object:
    if isinstance(value, str):
        return guarded(value)
    return text_of(value) if isinstance(value, list | tuple | bool) else value
