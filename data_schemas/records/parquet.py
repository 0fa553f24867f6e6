"""Columns of pictures in parquet: compressed by groups of rows, so a group is decoded for one of its pictures."""

import functools
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_schemas.errors import ProtoRKDError
from data_schemas.opened import open_bytes
from data_schemas.records.arrow import picture_bytes, row_numbers
from data_schemas.records.record import ABSENT, MAX_RECORD_BYTES, Places, UnreadableRecord

_MAX_GROUP_BYTES = 1 << 30
_MAX_GROUPS = 4  # that a process keeps decoded
_BROKEN = (OSError, ValueError, pa.ArrowException, MemoryError)


def open_parquet(path: Path, *, read_dictionary: tuple[str, ...] = ()) -> pq.ParquetFile:
    """Open a parquet file.

    Args:
        path: of the file.
        read_dictionary: leaves that stay as they are encoded, so that they take no more memory than the file has bytes.

    Raises:
        ProtoRKDError: it is absent or damaged.
    """
    file = open_bytes(path)
    try:
        return pq.ParquetFile(file, read_dictionary=list(read_dictionary))
    except _BROKEN as error:
        raise ProtoRKDError(f"{path} must be a whole parquet file; {error}. Fetch it again.") from error


@dataclass(frozen=True)
class ParquetRecords:
    """One column of a parquet file by row.

    Args:
        path: of the file.
        column: its name.
    """

    path: Path
    column: str

    def find(self, names: pa.LargeStringArray) -> Places:
        """Group of rows, and row in it, of each."""
        metadata = open_parquet(self.path).metadata
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
        """Read one row of a group, which is kept for a while."""
        with _LOCK:
            column = _group(self.path, self.column, first)
        value = column[second].as_py() if second < len(column) else None
        if value is None:
            raise UnreadableRecord("no picture in its record")
        if len(value) > MAX_RECORD_BYTES:
            raise UnreadableRecord(f"a record of more than {MAX_RECORD_BYTES >> 20} MiB")
        return bytes(value)


_LOCK = threading.Lock()  # threads that ask for the same group wait for it, and do not decode it again


@functools.lru_cache(_MAX_GROUPS)
def _group(path: Path, column: str, group: int) -> pa.ChunkedArray:
    try:
        metadata = pq.ParquetFile(open_bytes(path))
        is_struct = pa.types.is_struct(metadata.schema_arrow.field(column).type)
        leaf = f"{column}.bytes" if is_struct else column
        size = _leaf_size(metadata.metadata.row_group(group), leaf)
        if size > _MAX_GROUP_BYTES:
            raise UnreadableRecord(f"a group of rows of more than {_MAX_GROUP_BYTES >> 30} GiB")
        file = open_parquet(path, read_dictionary=(leaf,))
        chunks = file.read_row_group(group, columns=[leaf], use_threads=False)[column].chunks
        return pa.chunked_array([picture_bytes(chunk) for chunk in chunks])
    except (*_BROKEN, KeyError, ProtoRKDError) as error:
        raise UnreadableRecord(f"unreadable container: {str(error).partition(chr(10))[0]}") from error


def _leaf_size(group: pq.RowGroupMetaData, leaf: str) -> int:
    columns = (group.column(number) for number in range(group.num_columns))
    return sum(column.total_uncompressed_size for column in columns if column.path_in_schema == leaf)
