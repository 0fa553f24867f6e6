"""Rows and fields of a delimited text file, as positions in its bytes, millions at a time."""

from array import array
from collections.abc import Iterator
from dataclasses import dataclass
from mmap import mmap

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from data_schemas.pair_sources.text.quoting import quoted_field
from data_schemas.pair_sources.text.text_file import BLOCK_BYTES, line_end

_NEWLINE, _RETURN = b"\n\r"

Positions = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """A block of consecutive rows; blank lines are not rows.

    Args:
        offset: Position of the rows in the file, in bytes.

    Shapes:
        buffer: (bytes,), uint8, the bytes of the rows; all positions count from its beginning.
        lines: (rows,), int64, the line of the file in which each row begins; the first line is 1.
        num_fields: (rows,), int64.
        last_fields: (rows,), int64, index of each row's last field.
        starts: (fields,), int64.
        ends: (fields,), int64, one past the field's last byte.
        quoted: (fields,), bool, True for a well-formed csv field in quotes.
        malformed: (rows,), bool, True where a field begins with a quote but is not a well-formed csv field.
    """

    offset: int
    buffer: npt.NDArray[np.uint8]
    lines: Positions
    num_fields: Positions
    last_fields: Positions
    starts: Positions
    ends: Positions
    quoted: npt.NDArray[np.bool_]
    malformed: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.lines)

    def spans(self, rows: Positions) -> tuple[Positions, Positions]:
        """Return where rows begin and end, in bytes from the beginning of the file."""
        last = self.last_fields[rows]
        return self.starts[last - self.num_fields[rows] + 1] + self.offset, self.ends[last] + self.offset

    def column(self, rows: Positions, field: int) -> pa.LargeStringArray:
        """Return one field of each of some rows, without csv quoting.

        Args:
            rows: Indexes of the rows, ascending; each row has more than ``field`` fields.
            field: Index of the field in a row, from 0.
        """
        which = self.last_fields[rows] - self.num_fields[rows] + 1 + field
        quoted = self.quoted[which]
        text = _cut(self.buffer, self.starts[which] + quoted, self.ends[which] - quoted)
        if quoted.any():
            text = pc.if_else(pa.array(quoted), pc.replace_substring(text, '""', '"'), text)
        return text


def read_rows(data: mmap, *, start: int, line: int, separator: str, quoting: str) -> Iterator[Rows]:
    r"""Yield all rows of a file, in order and in blocks.

    A row ends at a newline, with or without a carriage return before it; any other carriage return is text.

    Args:
        data: Content of the whole file.
        start: Position of the first row, in bytes.
        line: Number of the line in which the first row begins.
        separator: The ASCII character between fields.
        quoting: ``none`` takes every double quote as text; ``csv`` reads a field in double quotes as one that may hold
            separators, newlines and doubled quotes.
    """
    matches = quoted_field(separator).finditer(data, start) if quoting == "csv" else iter(())
    match = next(matches, None)
    while start < len(data):
        end = line_end(data, start + BLOCK_BYTES)
        quoted, malformed = array("q"), array("q")
        while match and match.start() < end:
            if match[1] is None:
                malformed.append(match.start() - start)
            else:
                quoted.extend((match.start() - start, match.end() - start))
                if match.end() > end:
                    end = line_end(data, match.end())
            match = next(matches, None)
        buffer = np.frombuffer(data, np.uint8, count=end - start, offset=start)
        if buffer[-1] != _NEWLINE:
            buffer = np.append(buffer, np.uint8(_NEWLINE))
        yield _split(
            buffer,
            offset=start,
            line=line,
            separator=ord(separator),
            quoted=np.array(quoted, np.int64).reshape(-1, 2),
            malformed=np.array(malformed, np.int64),
        )
        line += int(np.count_nonzero(buffer == _NEWLINE))
        start = end


def _split(
    buffer: npt.NDArray[np.uint8], *, offset: int, line: int, separator: int, quoted: Positions, malformed: Positions
) -> Rows:
    """Find rows and fields in a block that ends with a newline outside quotes."""
    is_newline = buffer == _NEWLINE
    is_end = is_newline | (buffer == separator)
    if len(quoted):
        is_end &= ~_inside(len(buffer), quoted[:, 0], quoted[:, 1])
    ends = np.flatnonzero(is_end)
    starts = np.concatenate([np.zeros(1, np.int64), ends[:-1] + 1])
    last_fields = np.flatnonzero(is_newline[ends])
    num_fields = np.diff(last_fields, prepend=-1)
    row_starts = starts[last_fields - num_fields + 1]
    lines = line + np.searchsorted(np.flatnonzero(is_newline), row_starts)
    row_ends = ends[last_fields]
    row_ends -= (row_ends > row_starts) & (buffer[row_ends - 1] == _RETURN)
    ends[last_fields] = row_ends
    is_quoted = np.zeros(len(starts), np.bool_)
    is_quoted[np.searchsorted(starts, quoted[:, 0])] = True
    is_malformed = np.zeros(len(lines), np.bool_)
    is_malformed[np.searchsorted(row_starts, malformed, side="right") - 1] = True
    filled = row_ends > row_starts
    return Rows(
        offset=offset,
        buffer=buffer,
        lines=lines[filled],
        num_fields=num_fields[filled],
        last_fields=last_fields[filled],
        starts=starts,
        ends=ends,
        quoted=is_quoted,
        malformed=is_malformed[filled],
    )


def _inside(length: int, starts: Positions, ends: Positions) -> npt.NDArray[np.bool_]:
    """Mark the bytes that lie in any of some spans that do not overlap."""
    change = np.zeros(length + 1, np.int8)
    change[starts] += 1
    change[ends] -= 1
    return np.cumsum(change, dtype=np.int8)[:-1].view(np.bool_)


def _cut(buffer: npt.NDArray[np.uint8], starts: Positions, ends: Positions) -> pa.LargeStringArray:
    """Copy ascending spans of UTF-8 bytes into an array of strings."""
    offsets = np.zeros(len(starts) + 1, np.int64)
    np.cumsum(ends - starts, out=offsets[1:])
    text = buffer[_inside(len(buffer), starts, ends)]
    return pa.LargeStringArray.from_buffers(len(starts), pa.py_buffer(offsets), pa.py_buffer(text))
