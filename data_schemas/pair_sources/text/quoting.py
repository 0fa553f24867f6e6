"""Decide whether the double quotes of a delimited text file are csv quoting or part of the text."""

import re
from enum import Enum
from mmap import mmap
from pathlib import Path

from data_schemas.errors import ProtoRKDError
from data_schemas.pair_sources.text.text_file import line_end, line_number

QUOTINGS = ("auto", "csv", "none")


class Evidence(Enum):
    """What one field that begins with a double quote says about its file."""

    CSV = "can be read as csv alone"
    TEXT = "can be read as text alone"
    NEITHER = "reads well both ways"
    BOTH = "speaks for csv and for text"


def quoted_field(separator: str) -> re.Pattern[bytes]:
    r"""Return the pattern of a field that begins with a double quote.

    Group 1 is what lies between the quotes of a well-formed csv field: closed, and every quote inside it doubled. For
    any other field the match is only the opening quote and group 1 is None. The time is linear in the text.

    Args:
        separator: The ASCII character between fields.
    """
    cut = re.escape(separator.encode())
    return re.compile(rb'"(?<![^%b\n]")(?:([^"]*+(?:""[^"]*+)*+)"(?=%b|\r?\n|\r?\Z))?' % (cut, cut))


def decide_quoting(data: mmap, *, start: int, num_columns: int, separator: str, path: Path) -> str:
    """Return ``csv`` or ``none``, whichever explains every field that begins with a double quote.

    Where no field needs csv quoting, it is told by a column all of whose fields stand in quotes.

    Args:
        data: Content of the whole file.
        start: Position of its second line, in bytes.
        num_columns: Number of columns of the header; a line with as many fields is a row by itself.
        separator: The ASCII character between fields.
        path: Path of the file, for messages.

    Raises:
        ProtoRKDError: one field can be read as csv alone and another as text alone.
    """
    pattern = quoted_field(separator)
    seen: dict[Evidence, int] = {}
    begin = start
    while match := pattern.search(data, start):
        evidence = _weigh(data, match, num_columns=num_columns, separator=separator.encode())
        # Pass only the quote of a text that begins with one; what follows may be a quoted field itself.
        start = match.start() + 1 if evidence is Evidence.TEXT else match.end()
        seen.setdefault(evidence, match.start())
        if evidence is Evidence.BOTH:
            raise _contradiction(path, csv=line_number(data, match.start()), text=line_number(data, match.end()))
        if Evidence.CSV in seen and Evidence.TEXT in seen:
            lines = (line_number(data, seen[kind]) for kind in (Evidence.CSV, Evidence.TEXT))
            raise _contradiction(path, csv=next(lines), text=next(lines))
    if Evidence.CSV in seen:
        return "csv"
    is_quoted = Evidence.NEITHER in seen and has_quoted_column(data, start=begin, separator=separator)
    return "csv" if is_quoted else "none"


def are_neither(data: mmap, *, start: int, num_columns: int, separator: str) -> bool:
    """Tell whether no field needs csv's quotes and none has quotes that are text; the first that has ends the look.

    Args:
        data: Content of the whole file.
        start: Position of its second line, in bytes.
        num_columns: Number of columns of the header.
        separator: The ASCII character between fields.
    """
    cut = separator.encode()
    matches = quoted_field(separator).finditer(data, start)
    return all(_weigh(data, match, num_columns=num_columns, separator=cut) is Evidence.NEITHER for match in matches)


def has_quoted_column(data: mmap | bytes, *, start: int, separator: str, of: int | None = None) -> bool:
    """Tell whether all fields of a column that are not empty stand in double quotes, in a file of a row a line.

    Args:
        data: Content of the whole file.
        start: Position of its second line, in bytes.
        separator: The ASCII character between fields.
        of: Number of columns to look at, from the first on; None looks at all.
    """
    cut = separator.encode()
    columns = set(range(of)) if of is not None else None
    quoted: set[int] = set()
    plain: set[int] = set()
    while start < len(data):
        end = line_end(data, start)
        for column, field in enumerate(data[start:end].rstrip(b"\r\n").split(cut)[:of]):
            if field:
                is_quoted = len(field) > 1 and field[:1] == field[-1:] == b'"'
                (quoted if is_quoted else plain).add(column)
        if (quoted and quoted <= plain) or plain == columns:
            return False
        start = end
    return not quoted <= plain


def _weigh(data: mmap, match: re.Match[bytes], *, num_columns: int, separator: bytes) -> Evidence:
    inner = match[1]
    if inner is None:
        return Evidence.TEXT
    if separator not in inner and b"\n" not in inner:
        return Evidence.CSV if b'"' in inner or b"\r" in inner else Evidence.NEITHER
    # Two texts, one opening and a later one closing with a quote, look like one csv field with rows inside it.
    line_start = data.rfind(b"\n", 0, match.start()) + 1
    lines = data[line_start : line_end(data, match.end())].removesuffix(b"\n").split(b"\n")
    num_rows = sum(line.count(separator) == num_columns - 1 for line in lines)
    if num_rows == len(lines):
        return Evidence.TEXT
    # The first or the last line of a true csv field may look like a row; the lines within it do not.
    return Evidence.CSV if num_rows <= 1 else Evidence.BOTH


def _contradiction(path: Path, *, csv: int, text: int) -> ProtoRKDError:
    return ProtoRKDError(
        f"Quotes of {path} must all be csv quoting or all be text; got line {csv}, which only csv quoting explains, "
        f"and line {text}, which only plain text explains. Mend one of them, or choose with --quoting csv or "
        "--quoting none."
    )
