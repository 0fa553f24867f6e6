"""Read a text table of pairs into a manifest, and detect its separator, quoting and columns."""

import contextlib
import csv
from collections import Counter
from mmap import mmap
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data_schemas.errors import ProtoRKDError
from data_schemas.manifest import (
    _REASONS,
    AUTO,
    LABELLED_SCHEMA,
    SCHEMA,
    VALUE_CHARS,
    Manifest,
    Rejection,
    check_rejected,
    is_blank,
)
from data_schemas.pair_sources.columns import Columns, shown
from data_schemas.pair_sources.text.delimited import Positions, Rows, read_rows
from data_schemas.pair_sources.text.quoting import QUOTINGS, are_neither, decide_quoting, has_quoted_column
from data_schemas.pair_sources.text.text_file import BOM, excerpt, first_line, first_lines, line_end, open_text


def read_manifest(
    path: Path | str,
    *,
    image_key: str = "filepath",
    caption_key: str = "title",
    label_column: str = "",
    separator: str = AUTO,
    quoting: str = "auto",
    limit: int = 0,
    max_bad_fraction: float = 0.01,
) -> Manifest:
    r"""Read the image-caption pairs of a text table with a header.

    Images and captions stay as they are: ``NA``, ``null`` and ``12`` are captions, and no whitespace is stripped. A
    byte-order mark, CRLF line ends and blank lines are not data.

    Args:
        path: Path of a UTF-8 file.
        image_key: Column of the image paths; if it is left to its default and absent, a column with another well-known
            name is taken.
        caption_key: Column of the captions; likewise.
        label_column: Column of the labels, in which a field may be blank; "" reads none.
        separator: The ASCII character between fields; a backslash and a ``t`` also mean a tab. ``auto`` takes the tab,
            comma or semicolon by which the header has the columns; if none does, what the file's name says.
        quoting: ``csv`` if double quotes enclose fields, ``none`` if they are text; ``auto`` finds out from the whole
            file.
        limit: Read only the first so many good pairs; 0 reads all.
        max_bad_fraction: Rejected rows beyond this share of the manifest stop the stage.

    Raises:
        ProtoRKDError: an argument is out of its range; the file cannot be read, is not UTF-8 text or has no rows; a
            column is missing or named twice; the quotes contradict each other; too many rows are rejected.
    """
    path = Path(path)
    separator = "\t" if separator == r"\t" else separator
    _check_arguments(separator, quoting=quoting, limit=limit, max_bad_fraction=max_bad_fraction)
    data = open_text(path)
    header_end = line_end(data, 0)
    _check_line_ends(data[:header_end], path)
    asked = Columns(image_key, caption_key, label_column)
    if separator == AUTO:
        separator = _find_separator(data[:header_end], asked, quoting=quoting, path=path)
    names, header_quoted = _read_header(data[:header_end], separator, quoting=quoting, path=path)
    fields, notes = _find_columns(names, asked, separator=separator, path=path)
    if quoting == "auto" and header_quoted:
        quoting = "csv"
    elif quoting == "auto":
        quoting = decide_quoting(data, start=header_end, num_columns=len(names), separator=separator, path=path)
    pairs = _Pairs(num_columns=len(names), fields=fields, limit=limit)
    for rows in read_rows(data, start=header_end, line=2, separator=separator, quoting=quoting):
        pairs.add(rows)
        if pairs.complete:
            break
    pairs.check(data, path, max_bad_fraction=max_bad_fraction)
    return Manifest(path, pa.Table.from_batches(pairs.batches, pairs.schema), pairs.rejections(data), quoting, notes)


class _Pairs:
    """Good pairs and rejected rows, gathered block by block.

    A rejected row is kept as four numbers until its text is needed, since a wrong file may reject millions.
    """

    def __init__(self, *, num_columns: int, fields: list[int], limit: int) -> None:
        self.num_columns = num_columns
        self.fields = fields  # indexes of image, caption and, where asked for, label
        self.schema = LABELLED_SCHEMA if len(fields) == 3 else SCHEMA
        self.limit = limit
        self.batches: list[pa.RecordBatch] = []
        self.num_pairs = 0
        self.num_rows = 0
        # (rejected rows, 4): line, reason, first byte, end.
        self.rejected: list[Positions] = []

    @property
    def complete(self) -> bool:
        return self.num_pairs == self.limit > 0

    def add(self, rows: Rows) -> None:
        verdicts, columns = self._judge(rows)
        accepted = np.flatnonzero(verdicts == 0)
        if self.limit and self.num_pairs + len(accepted) >= self.limit:
            accepted = accepted[: self.limit - self.num_pairs]
            verdicts = verdicts[: accepted[-1] + 1]
        pairs = [pa.array(rows.lines[accepted]), *(column[: len(accepted)] for column in columns)]
        self.batches.append(pa.record_batch(pairs, self.schema))
        self.num_pairs += len(accepted)
        self.num_rows += len(verdicts)
        rejected = np.flatnonzero(verdicts)
        self.rejected.append(np.stack([rows.lines[rejected], verdicts[rejected], *rows.spans(rejected)], axis=1))

    def _judge(self, rows: Rows) -> tuple[npt.NDArray[np.int64], list[pa.LargeStringArray]]:
        """Return an index into the reasons for each row, and the columns of those accepted."""
        verdicts = np.zeros(len(rows), np.int64)
        verdicts[rows.num_fields < self.num_columns] = 1
        verdicts[rows.num_fields > self.num_columns] = 2
        verdicts[rows.malformed] = 3
        whole = np.flatnonzero(verdicts == 0)
        images, captions, *labels = (rows.column(whole, field) for field in self.fields)
        verdicts[whole[is_blank(captions)]] = 4
        verdicts[whole[is_blank(images)]] = 5
        labels = [pc.if_else(pa.array(is_blank(column)), None, column) for column in labels]
        accepted = pa.array(verdicts[whole] == 0)
        return verdicts, [column.filter(accepted) for column in (images, captions, *labels)]

    def rejections(self, data: mmap, limit: int | None = None) -> tuple[Rejection, ...]:
        rejected = np.concatenate(self.rejected)[:limit].tolist()
        return tuple(
            Rejection(line, _REASONS[reason], excerpt(data, start=start, end=end, chars=VALUE_CHARS))
            for line, reason, start, end in rejected
        )

    def check(self, data: mmap, path: Path, *, max_bad_fraction: float) -> None:
        if self.num_rows == 0:
            raise ProtoRKDError(f"{path} must hold rows of pairs; got only a header. Add rows below the header.")
        check_rejected(
            path,
            num_pairs=self.num_pairs,
            num_rejected=self.num_rows - self.num_pairs,
            reasons=Counter(_REASONS[reason] for block in self.rejected for reason in block[:, 1].tolist()),
            first=lambda: self.rejections(data, limit=3),
            max_bad_fraction=max_bad_fraction,
        )


def _check_arguments(separator: str, *, quoting: str, limit: int, max_bad_fraction: float) -> None:
    if separator != AUTO and (len(separator) != 1 or not separator.isascii() or separator in '"\r\n\0'):
        raise ProtoRKDError(
            f"--separator must be one ASCII character, no quote and no line end; got {separator!r}. \\t is a tab."
        )
    if quoting not in QUOTINGS:
        raise ProtoRKDError(f"--quoting must be one of {', '.join(QUOTINGS)}; got {quoting!r}. Leave it out for auto.")
    if limit < 0:
        raise ProtoRKDError(f"--limit must be 0 or more; got {limit}. 0 reads all pairs.")
    if not 0 <= max_bad_fraction <= 1:
        raise ProtoRKDError(f"--max-bad-fraction must be from 0 to 1; got {max_bad_fraction}. 0.01 is one row in 100.")


def _check_line_ends(header: bytes, path: Path) -> None:
    if b"\r" in header.rstrip(b"\r\n"):
        raise ProtoRKDError(
            f"Lines of {path} must end with a newline, with or without a carriage return before it; got carriage "
            "returns alone in its header. Convert it, for instance with "
            f"tr '\\r' '\\n' < {path} > converted{path.suffix}."
        )


def separator_of(path: Path, columns: Columns, *, quoting: str = "auto") -> str:
    """Return the character that ``auto`` takes, by the header alone.

    Raises:
        ProtoRKDError: the file cannot be read.
    """
    return _find_separator(first_line(path), columns, quoting=quoting, path=path)


def is_told_by_a_column(path: Path, columns: Columns, *, separator: str) -> bool:
    """Tell whether ``--quoting auto`` takes a table's quotes for csv's only because a whole column stands in them.

    Raises:
        ProtoRKDError: the file cannot be read.
    """
    head = first_lines(path)
    start = line_end(head, 0)
    separator = _find_separator(head[:start], columns, quoting=AUTO, path=path) if separator == AUTO else separator
    names, header_quoted = _read_header(head[:start], separator, quoting=AUTO, path=path)
    if header_quoted or not has_quoted_column(head, start=start, separator=separator, of=len(names)):
        return False
    data = open_text(path)
    return are_neither(data, start=start, num_columns=len(names), separator=separator) and has_quoted_column(
        data, start=start, separator=separator, of=len(names)
    )


def _find_separator(header: bytes, columns: Columns, *, quoting: str, path: Path) -> str:
    by_name = {".csv": ",", ".tsv": "\t"}
    first = next((by_name[suffix] for suffix in path.suffixes[-2:] if suffix in by_name), "\t")
    for separator in dict.fromkeys((first, "\t", ",", ";")):
        with contextlib.suppress(ProtoRKDError):
            names, _ = _read_header(header, separator, quoting=quoting, path=path)
            columns.chosen(names, path)
            return separator
    return first


def _read_header(line: bytes, separator: str, *, quoting: str, path: Path) -> tuple[list[str], bool]:
    """Return the columns' names, and whether any of them is in quotes."""
    header = line.removeprefix(BOM).decode(errors="replace").removesuffix("\n").removesuffix("\r")
    plain = header.split(separator)
    if quoting == "none" or not any(name.startswith('"') for name in plain):
        return plain, False
    try:
        return next(csv.reader([header], delimiter=separator, strict=True)), True
    except csv.Error as error:
        raise ProtoRKDError(
            f"Header of {path} must quote its names as csv does; got {header[:VALUE_CHARS]!r}. "
            "Mend it, or take quotes as text with --quoting none."
        ) from error


def _find_columns(names: list[str], asked: Columns, *, separator: str, path: Path) -> tuple[list[int], tuple[str, ...]]:
    """Return the indexes of the columns asked for, and notes on the choice; the label's only if it has a name."""
    hint = f" It has one column only: is {separator!r} the right --separator?" if len(names) == 1 else ""
    columns = asked.chosen(names, path, hint=hint)
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise ProtoRKDError(
            f"Columns of {path} must have different names; got {shown(names)}. Rename one {twice[0]!r}."
        )
    wanted = [columns.image, columns.caption, *([columns.label] if columns.label else [])]
    return [names.index(name) for name in wanted], columns.notes(asked)
