"""Columns of images in parquet: compressed by groups of rows, so reading one image decodes its group."""

import contextlib
import functools
import io
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_schemas.errors import ProtoRKDError, in_one_line
from data_schemas.records.arrow import has_images, image_bytes, row_numbers
from data_schemas.records.opened import open_bytes
from data_schemas.records.record import ABSENT, BROKEN, MAX_RECORD_BYTES, Places, UnreadableRecord, facts_of

_MAX_GROUP_BYTES = 1 << 30
_MAX_OPEN = 64  # files whose footers a process keeps
_MAX_GROUPS = 4  # groups that a process keeps decoded


def open_parquet(path: Path, *, read_dictionary: tuple[str, ...] = ()) -> pq.ParquetFile:
    """Open a parquet file.

    Args:
        path: Path of the file.
        read_dictionary: Leaves to keep dictionary-encoded, so that they take no more memory than the file has bytes.

    Raises:
        ProtoRKDError: it is absent or damaged.
    """
    file = open_bytes(path)
    try:
        return pq.ParquetFile(file, read_dictionary=list(read_dictionary))
    except BROKEN as error:
        raise ProtoRKDError(f"{path} must be a whole parquet file; {in_one_line(error)}. Fetch it again.") from error


def leaf_metadata(path: Path, leaf: str) -> list[pq.ColumnChunkMetaData]:
    """Return a file's metadata of a leaf, for each group of rows.

    Asked directly, pyarrow ends the process over a footer that contradicts itself; its readers raise instead. So one of
    them looks first, and stops where it would read the data.

    Raises:
        OSError: the footer contradicts itself.
        KeyError: there is no such leaf.
    """
    guard = _Guard(open_bytes(path))
    file = pq.ParquetFile(pa.PythonFile(guard, mode="r"))
    names = [column.path for column in file.schema]
    if leaf not in names:
        raise KeyError(leaf)
    guard.is_closed_to_data = True
    chunks = []
    for group in range(file.metadata.num_row_groups):
        with contextlib.suppress(_DataAskedFor):
            next(file.iter_batches(1, row_groups=[group], columns=[leaf], use_threads=False), None)
        chunks.append(file.metadata.row_group(group).column(names.index(leaf)))
    return chunks


def image_leaf(schema: pa.Schema, column: str) -> str:
    """Return the leaf that has the bytes of a column of images."""
    return f"{column}.bytes" if pa.types.is_struct(schema.field(column).type) else column


class _DataAskedFor(Exception):  # noqa: N818 -- it is what the guard waits for
    pass


class _Guard(io.RawIOBase):
    """A file that gives its footer, and raises on any later read of data."""

    def __init__(self, file: pa.NativeFile) -> None:
        self._file = file
        self.is_closed_to_data = False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return int(self._file.tell())

    def seek(self, offset: int, whence: int = 0) -> int:
        return int(self._file.seek(offset, whence))

    def read(self, size: int = -1) -> bytes:
        if self.is_closed_to_data:
            raise _DataAskedFor
        data: bytes = self._file.read(size)
        return data


@dataclass(frozen=True)
class ParquetRecords:
    """Records in one column of a parquet file, by row.

    Args:
        path: Path of the file.
        column: Name of the column.
    """

    path: Path
    column: str

    def find(self, names: pa.LargeStringArray) -> Places:
        """Find the group of rows, and the row in it, of each record."""
        file = open_parquet(self.path)
        if not has_images(file.schema_arrow, self.column):
            return np.full((len(names), 2), ABSENT, np.int64)
        metadata = file.metadata
        counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        rows = row_numbers(names)
        there = (rows >= 0) & (rows < starts[-1])
        groups = np.searchsorted(starts, rows, side="right") - 1
        groups[~there] = 0
        places = np.stack([groups, rows - starts[groups]], axis=1)
        places[~there] = ABSENT
        return places

    def read(self, first: int, second: int) -> bytes:
        """Read one row of a group; the decoded group is kept for a while."""
        with _LOCK:
            column = self._group(first)
        value = column[second].as_py() if second < len(column) else None
        if value is None:
            raise UnreadableRecord("no picture in its record")
        if len(value) > MAX_RECORD_BYTES:
            raise UnreadableRecord(f"a record of more than {MAX_RECORD_BYTES >> 20} MiB")
        return bytes(value)

    def _group(self, group: int) -> pa.ChunkedArray:
        try:
            return _group(self.path, facts_of(self.path), self.column, group)
        except (*BROKEN, ProtoRKDError) as error:
            raise UnreadableRecord(f"unreadable container: {str(error).partition(chr(10))[0]}") from error


_LOCK = threading.Lock()  # threads that ask for the same group wait for it, and do not decode it again


@functools.lru_cache(_MAX_GROUPS)
def _group(path: Path, facts: tuple[int, ...], column: str, group: int) -> pa.ChunkedArray:
    file, leaf, sizes = _opened(path, facts, column)
    if sizes[group] > _MAX_GROUP_BYTES:
        raise UnreadableRecord(f"a group of rows of more than {_MAX_GROUP_BYTES >> 30} GiB")
    chunks = file.read_row_group(group, columns=[leaf], use_threads=False)[column].chunks
    return pa.chunked_array([image_bytes(chunk) for chunk in chunks])


@functools.lru_cache(_MAX_OPEN)
def _opened(path: Path, facts: tuple[int, ...], column: str) -> tuple[pq.ParquetFile, str, list[int]]:
    """Return a file, the leaf of a column in it, and the size of that leaf in each group."""
    leaf = image_leaf(open_parquet(path).schema_arrow, column)
    sizes = [each.total_uncompressed_size for each in leaf_metadata(path, leaf)]
    return open_parquet(path, read_dictionary=(leaf,)), leaf, sizes
