"""Read tables of captions and URLs: Conceptual Captions, without a header, or any table with named columns."""

import csv
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_schemas.errors import ProtoRKDError
from data_schemas.files import hash_file
from data_schemas.pair_sources.text.delimited import Rows, read_rows
from data_schemas.pair_sources.text.quoting import decide_quoting
from data_schemas.pair_sources.text.text_file import BOM, line_end, open_text
from stages.components.inputs.manifest_options import SEPARATORS
from stages.gather_cc.options import GatherParams

PROBLEMS = ("", "malformed row", "empty caption", "empty url")
_DIGEST_BYTES = 16
_CAPTION, _URL = 0, 1  # without a header; Conceptual Captions with labels has more columns after these


class Row(NamedTuple):
    """A row of the table to request.

    Args:
        number: Number of the line in which the row begins, from 0.
        url: URL without white space around it; "" if there is none.
        problem: Reason why it cannot be requested; "" if it can.
    """

    number: int
    url: str
    problem: str


@dataclass(frozen=True, eq=False)
class Block:
    """Some consecutive rows of the table.

    Args:
        captions: Captions as written, large_string; "" where there is none.
        urls: URLs without white space around them, large_string; "" where there is none.

    Shapes:
        numbers: (rows,), int64, the line in which each row begins, from 0.
        problems: (rows,), int8, an index into `PROBLEMS`.
    """

    numbers: NDArray[np.int64]
    captions: pa.LargeStringArray
    urls: pa.LargeStringArray
    problems: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.numbers)

    def rows(self, places: NDArray[np.int64]) -> Iterator[Row]:
        """Yield the rows at some places of the block."""
        urls = self.urls.take(pa.array(places)).to_pylist()
        for place, url in zip(places.tolist(), urls, strict=True):
            yield Row(int(self.numbers[place]), url, PROBLEMS[self.problems[place]])


@dataclass(frozen=True)
class Table:
    """A table of captions and URLs that can be read any number of times.

    Args:
        path: File of the table.
        start: Offset of the first row, in bytes.
        line: Number of the first row's line.
        num_columns: Number of columns in the header; 0 without one.
        fields: Numbers of the columns of caption and URL.
        separator: Character between columns.
        quoting: Quoting of fields: ``csv`` or ``none``.
    """

    path: Path
    start: int
    line: int
    num_columns: int
    fields: tuple[int, int]
    separator: str
    quoting: str

    def digest(self) -> str:
        """Hash the file."""
        return hash_file(self.path)

    def blocks(self) -> Iterator[Block]:
        """Yield the rows in order, in blocks; empty lines are no rows.

        Raises:
            ProtoRKDError: the file cannot be read, or is not UTF-8 text.
        """
        data = open_text(self.path)
        for rows in read_rows(data, start=self.start, line=self.line, separator=self.separator, quoting=self.quoting):
            yield self._block(rows)

    def _block(self, rows: Rows) -> Block:
        enough = rows.num_fields == self.num_columns if self.num_columns else rows.num_fields > max(self.fields)
        is_whole = enough & ~rows.malformed
        places = pa.array(np.cumsum(is_whole) - 1, mask=~is_whole)  # among the whole ones
        captions, urls = (
            rows.column(np.flatnonzero(is_whole), field).take(places).fill_null("") for field in self.fields
        )
        urls = pc.utf8_trim_whitespace(urls)
        has_text = pc.and_not(pc.greater(pc.binary_length(captions), 0), pc.utf8_is_space(captions))
        has_url = pc.greater(pc.binary_length(urls), 0)
        problems = np.select(
            [~is_whole, ~has_text.to_numpy(zero_copy_only=False), ~has_url.to_numpy(zero_copy_only=False)], [1, 2, 3]
        )
        return Block(rows.lines, captions, urls, problems.astype(np.int8))


@dataclass(frozen=True, eq=False)
class Plan:
    """The rows of a table, and which of them share a URL.

    Shapes:
        rows: (rows,), int64, ascending.
        first: (rows,), int64, the first row with the same URL, which is the one requested; itself if it has no URL.
    """

    rows: NDArray[np.int64]
    first: NDArray[np.int64]

    @classmethod
    def of(cls, table: Table) -> "Plan":
        """Plan the rows of a table, which is read once.

        Raises:
            ProtoRKDError: as `Table.blocks`, or there are no rows.
        """
        rows, digests = [], []
        for block in table.blocks():
            rows.append(block.numbers)
            # A row that cannot be requested shares with none.
            texts = (
                f"{number}" if problem else f" {url}"
                for number, url, problem in zip(
                    block.numbers.tolist(), block.urls.to_pylist(), block.problems.tolist(), strict=True
                )
            )
            joined = b"".join(hashlib.blake2b(text.encode(), digest_size=_DIGEST_BYTES).digest() for text in texts)
            digests.append(np.frombuffer(joined, f"S{_DIGEST_BYTES}"))
        if not sum(map(len, rows)):
            raise ProtoRKDError(f"{table.path} must hold rows of captions and URLs; got none. Check the file.")
        numbers = np.concatenate(rows)
        _, places, groups = np.unique(np.concatenate(digests), return_index=True, return_inverse=True)
        return cls(numbers, numbers[places[groups]])


def open_table(path: Path, params: GatherParams) -> Table:
    """Open a table and find its columns.

    Raises:
        ProtoRKDError: it cannot be read, is not text, or lacks a column.
    """
    data = open_text(path)
    separator = SEPARATORS[params.separator]
    start = len(BOM) if data[: len(BOM)] == BOM else 0
    if not params.caption_key and not params.url_key:
        quoting = "none" if params.quoting == "auto" else params.quoting
        return Table(path, start, 0, 0, (_CAPTION, _URL), separator, quoting)
    end = line_end(data, 0)
    header = data[start:end].decode().rstrip("\r\n")
    names = next(csv.reader([header], delimiter=separator)) if params.quoting != "none" else header.split(separator)
    fields = tuple(_find(names, flag, key, path) for flag, key in _keys(params).items())
    quoting = params.quoting
    if quoting == "auto" and '"' in header:
        quoting = "csv"
    elif quoting == "auto":
        quoting = decide_quoting(data, start=end, num_columns=len(names), separator=separator, path=path)
    return Table(path, end, 1, len(names), (fields[0], fields[1]), separator, quoting)


def _keys(params: GatherParams) -> dict[str, str]:
    keys = {"--caption-key": params.caption_key, "--url-key": params.url_key}
    for flag, key in keys.items():
        if not key:
            raise ProtoRKDError(f"{flag} must name a column when the other does; got none. Name both, or neither.")
    return keys


def _find(names: list[str], flag: str, key: str, path: Path) -> int:
    if names.count(key) != 1:
        raise ProtoRKDError(
            f"{path} must have one column {key!r} ({flag}); got columns {', '.join(map(repr, names))}. "
            f"Name the right one with {flag}; is --separator right?"
        )
    return names.index(key)
