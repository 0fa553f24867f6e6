"""Columns of images in arrow files, as the datasets library saves them: each image is a run of bytes, read in place."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_schemas.errors import ProtoRKDError
from data_schemas.records.opened import map_bytes
from data_schemas.records.record import ABSENT, BROKEN, Places, read_range

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
            batches = (reader.get_batch(number) for number in range(reader.num_record_batches))
        else:
            batches = iter(pa.ipc.open_stream(source))
        for batch in batches:
            batch.validate()
            yield batch
    except BROKEN as error:
        raise ProtoRKDError(f"{path} must be a whole arrow file; {error}. Fetch or save it again.") from error


def check_sound(column: pa.Array) -> None:
    """Refuse offsets that point out of a column, as a hostile file may have; text need not be UTF-8.

    Raises:
        pa.ArrowInvalid: an offset points out of the column.
    """
    parts = [column.field(number) for number in range(column.type.num_fields)] if _is_struct(column.type) else [column]
    for part in parts:
        try:
            part.validate(full=True)
        except pa.ArrowInvalid as error:
            if "UTF8" not in str(error) or pa.types.is_dictionary(part.type):
                raise  # text itself is checked later; here only offsets count


def has_images(schema: pa.Schema, column: str) -> bool:
    """Tell whether a table has a column of this name that holds images."""
    return column in schema.names and holds_bytes(schema.field(column).type)


def holds_bytes(kind: pa.DataType) -> bool:
    """Tell whether a type is that of images: bytes, or structures that have them."""
    if _is_struct(kind):
        return kind.get_field_index("bytes") >= 0 and _is_binary(kind.field("bytes").type)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def image_bytes(column: pa.Array) -> pa.Array:
    """Return the bytes of a column of images, which may be structures that have them."""
    return column.field("bytes") if _is_struct(column.type) else column


def _is_struct(kind: pa.DataType) -> bool:
    return bool(pa.types.is_struct(kind))


@dataclass(frozen=True)
class ArrowRecords:
    """Records in one column of an arrow file, by row.

    Args:
        path: Path of the file.
        column: Name of the column.
    """

    path: Path
    column: str

    def find(self, names: pa.LargeStringArray) -> Places:
        """Find the offset and size of each record in the file."""
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
        places = [np.empty((0, 2), np.int64)]
        for batch in _batches(data, self.path):
            if not has_images(batch.schema, self.column):
                break
            places.append(self._places_of(image_bytes(batch.column(self.column)), data))
        return np.concatenate(places)

    def _places_of(self, column: pa.Array, data: pa.Buffer) -> Places:
        check_sound(column)
        validity, offsets, values = column.buffers()
        width = np.int64 if pa.types.is_large_binary(column.type) else np.int32
        if not len(column) or values is None:
            return np.full((len(column), 2), ABSENT, np.int64)
        edges = np.frombuffer(offsets, width, count=len(column) + 1, offset=column.offset * width().itemsize)
        start = values.address - data.address
        if not 0 <= start <= start + values.size <= data.size:
            raise ProtoRKDError(
                f"{self.path} must be an arrow file without compression, so that images are read where they lie. "
                "Save it without, or as parquet."
            )
        places = np.stack([edges[:-1].astype(np.int64) + start, np.diff(edges.astype(np.int64))], axis=1)
        if validity is not None:
            places[~column.is_valid().to_numpy(zero_copy_only=False)] = ABSENT
        return places


def row_numbers(names: pa.LargeStringArray) -> NDArray[np.int64]:
    """Parse names such as ``17``, the ends of locators, as rows; `ABSENT` where a name is not a number."""
    texts = pa.compute.if_else(pa.compute.match_substring_regex(names, "^[0-9]{1,18}$"), names, None)
    rows: NDArray[np.int64] = texts.cast(pa.int64()).fill_null(ABSENT).to_numpy(zero_copy_only=False).copy()
    return rows
