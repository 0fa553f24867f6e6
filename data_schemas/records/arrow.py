"""Columns of pictures in arrow's files, as the datasets library saves them: each a run of bytes, read by its place."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_schemas.errors import ProtoRKDError
from data_schemas.opened import map_bytes
from data_schemas.records.record import ABSENT, Places, read_range

_MAGIC = b"ARROW1"


def read_batches(path: Path) -> Iterator[pa.RecordBatch]:
    """Yield the batches of an arrow file or stream, views into its map.

    Raises:
        ProtoRKDError: it is absent or damaged.
    """
    yield from _batches(map_bytes(path), path)


def _batches(data: pa.Buffer, path: Path) -> Iterator[pa.RecordBatch]:
    try:
        source = pa.BufferReader(data)
        if data.slice(0, min(len(_MAGIC), data.size)).to_pybytes() == _MAGIC:
            reader = pa.ipc.open_file(source)
            yield from (reader.get_batch(number) for number in range(reader.num_record_batches))
        else:
            yield from pa.ipc.open_stream(source)
    except (OSError, ValueError, pa.ArrowException) as error:
        raise ProtoRKDError(f"{path} must be a whole arrow file; {error}. Fetch or save it again.") from error


def picture_bytes(column: pa.Array) -> pa.Array:
    """The bytes of a column of pictures: binary, or a structure that has them."""
    return column.field("bytes") if pa.types.is_struct(column.type) else column


@dataclass(frozen=True)
class ArrowRecords:
    """One column of an arrow file by row.

    Args:
        path: of the file.
        column: its name.
    """

    path: Path
    column: str

    def find(self, names: pa.LargeStringArray) -> Places:
        """Offset and size of each in the file."""
        known = self._places()
        rows = row_numbers(names)
        rows[rows >= len(known)] = ABSENT
        places = np.full((len(rows), 2), ABSENT, np.int64)
        there = rows != ABSENT
        places[there] = known[rows[there]]
        return places

    def read(self, first: int, second: int) -> bytes:
        """Read the bytes at an offset."""
        return read_range(self.path, first, second)

    def _places(self) -> Places:
        data = map_bytes(self.path)
        found = [np.empty((0, 2), np.int64)]
        for batch in _batches(data, self.path):
            if self.column not in batch.schema.names:
                raise ProtoRKDError(f"{self.path} must have a column {self.column!r}; got {batch.schema.names}.")
            found.append(self._places_of(picture_bytes(batch.column(self.column)), data))
        return np.concatenate(found)

    def _places_of(self, column: pa.Array, data: pa.Buffer) -> Places:
        validity, offsets, values = column.buffers()
        width = np.int64 if pa.types.is_large_binary(column.type) else np.int32
        if not len(column) or values is None:
            return np.full((len(column), 2), ABSENT, np.int64)
        column.validate(full=True)  # offsets of a hostile file may point anywhere
        edges = np.frombuffer(offsets, width, count=len(column) + 1, offset=column.offset * width().itemsize)
        start = values.address - data.address
        if not 0 <= start <= start + values.size <= data.size:
            raise ProtoRKDError(
                f"{self.path} must be an arrow file without compression, so that pictures are read where they lie. "
                "Save it without, or as parquet."
            )
        places = np.stack([edges[:-1].astype(np.int64) + start, np.diff(edges.astype(np.int64))], axis=1)
        if validity is not None:
            places[~column.is_valid().to_numpy(zero_copy_only=False)] = ABSENT
        return places


def row_numbers(names: pa.LargeStringArray) -> NDArray[np.int64]:
    """Rows from locators' names such as ``17``; `ABSENT` for what is no number."""
    texts = pa.compute.if_else(pa.compute.match_substring_regex(names, "^[0-9]{1,18}$"), names, None)
    rows: NDArray[np.int64] = texts.cast(pa.int64()).fill_null(ABSENT).to_numpy(zero_copy_only=False).copy()
    return rows
