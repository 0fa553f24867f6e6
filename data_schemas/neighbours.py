"""Neighbours on disk: the nearest other captions of each caption, in parquet files of some captions each."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_schemas.errors import ProtoRKDError, in_one_line
from data_schemas.files import write_atomic_by

FOLDER_NAME = "neighbours"
NO_NEIGHBOUR = -1

_KIND = b"neighbours 1"
_COLUMNS = ["caption_row", "neighbour_rows", "cosines"]
_REMEDY = "Run verify --repair on its store."


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The nearest other captions of some or all captions of an encode-teacher artifact, the nearest first.

    A caption with the zero vector is near none, and none is near it.

    Shapes:
        rows: (captions, num_neighbours), int64: rows of captions, never the caption's own; -1 behind the last of fewer.
        cosines: (captions, num_neighbours), float32, from -1 to 1: their cosines; 0 where there is none.
    """

    rows: NDArray[np.int64]
    cosines: NDArray[np.float32]

    @property
    def num_neighbours(self) -> int:
        """Number of columns: the most neighbours of a caption."""
        return int(self.rows.shape[1])

    def write(self, path: Path, *, start: int, num_captions: int) -> None:
        """Write the neighbours of captions ``start`` and following into one file.

        Args:
            path: File to write.
            start: Row of the first of these captions.
            num_captions: Number of captions in all files.

        Raises:
            ProtoRKDError: the disk is full or the folder cannot be written.
        """
        columns = [pa.array(np.arange(start, start + len(self.rows)))]
        for values in (self.rows, self.cosines):
            flat = pa.array(np.ascontiguousarray(values).reshape(-1))
            columns.append(pa.FixedSizeListArray.from_arrays(flat, self.num_neighbours))
        metadata = {b"protorkd": _KIND, b"captions": str(num_captions).encode()}
        table = pa.table(columns, names=_COLUMNS).replace_schema_metadata(metadata)
        write_atomic_by(path, lambda partial: pq.write_table(table, partial, write_page_checksum=True))

    @classmethod
    def read(cls, root: Path) -> "Neighbours":
        """Read all neighbours from an artifact's folder.

        Raises:
            ProtoRKDError: a file is missing, damaged or of another kind.
        """
        tables = [_read(path) for path in sorted((root / FOLDER_NAME).glob("*.parquet"))]
        own = np.concatenate([table["caption_row"].to_numpy() for table in tables] or [np.empty(0, np.int64)])
        expected = int(tables[0].schema.metadata[b"captions"]) if tables else 1
        if not np.array_equal(own, np.arange(expected)):
            raise ProtoRKDError(
                f"{root / FOLDER_NAME} must hold the neighbours of every caption in order; it has those of {len(own)}. "
                + _REMEDY
            )
        return cls(
            rows=np.concatenate([_values(table, "neighbour_rows") for table in tables]),
            cosines=np.concatenate([_values(table, "cosines") for table in tables]),
        )


def shard_ranges(num_captions: int, *, shard_rows: int) -> Iterator[tuple[str, int, int]]:
    """Yield the path of each file, relative to the artifact's folder, with its first row and the row after its last.

    Args:
        num_captions: Number of captions in all files; one empty file stands for none.
        shard_rows: Captions in one file.
    """
    for number, start in enumerate(range(0, max(1, num_captions), shard_rows)):
        yield f"{FOLDER_NAME}/{number:06}.parquet", start, min(start + shard_rows, num_captions)


def _read(path: Path) -> pa.Table:
    try:
        table = pq.read_table(path, page_checksum_verification=True)
    except (OSError, ValueError, pa.ArrowException) as error:  # a damaged footer decodes to anything
        raise ProtoRKDError(f"{path} must be a whole parquet file; {in_one_line(error)}. {_REMEDY}") from error
    if table.column_names != _COLUMNS or (table.schema.metadata or {}).get(b"protorkd") != _KIND:
        raise ProtoRKDError(f"{path} must have the columns {_COLUMNS}; got {table.column_names}. {_REMEDY}")
    return table


def _values(table: pa.Table, name: str) -> NDArray[Any]:
    column = table[name].combine_chunks()
    values: NDArray[Any] = column.values.to_numpy().reshape(len(column), table.schema.field(name).type.list_size)
    return values
