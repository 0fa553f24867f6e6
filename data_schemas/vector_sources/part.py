"""What a part of a source of vectors gives: its keys at once, its vectors a block at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa
from numpy.typing import NDArray

from data_schemas.errors import ProtoRKDError
from data_schemas.pair_sources.columns import shown

BLOCK_ROWS = 2048
IMAGE_KEYS = ("filepath", "image", "image_path", "file_name", "path", "sha256")
DIGEST_KEY, ROW_KEY = "sha256", "manifest_row"
TEXT_KEYS = ("title", "caption", "text", "TEXT", "sentence")
CAPTION_KEYS = (*TEXT_KEYS, ROW_KEY)
POSITION = "position"
"""In place of a column of keys, for an array of captions' vectors without a table: vector k is that of pair k."""


@dataclass(frozen=True)
class VectorColumns:
    """Columns of keys and vectors.

    Args:
        key: Column of keys; "" takes the first of ``known`` that is there.
        vector: Column of vectors; "" takes the only one that holds lists of numbers.
        known: Well-known names of keys, the likeliest first.
    """

    key: str = ""
    vector: str = ""
    known: tuple[str, ...] = IMAGE_KEYS

    def choose_key(self, names: Sequence[str], path: Path) -> str:
        """Choose the column of keys among a table's columns.

        Raises:
            ProtoRKDError: it is not there.
        """
        wanted = (self.key,) if self.key else self.known
        found = next((name for name in wanted if name in names), None)
        if found is None:
            raise ProtoRKDError(
                f"{path} must have a column that says whose each vector is; got columns {shown(names)}, none of them "
                f"{' or '.join(wanted)}. Name the right one with --vector-key."
            )
        return found


@dataclass(frozen=True)
class VectorBlock:
    """Some vectors of a part.

    Shapes:
        start: row of the first of them in the part.
        values: (rows, width), any real numbers; of a row without vector undefined.
        is_valid: (rows,), bool: whether there is a vector.
    """

    start: int
    values: NDArray[Any]
    is_valid: NDArray[Any]


class VectorPart(Protocol):
    """A file of vectors, or an array with the table beside it."""

    path: Path
    files: tuple[Path, ...]
    """Files whose bytes are the part."""

    def key_column(self, columns: VectorColumns) -> str:
        """Return the name of the column of keys.

        Raises:
            ProtoRKDError: there is none, or the file is damaged.
        """

    def keys(self, columns: VectorColumns) -> pa.Array:
        """Read the keys of all vectors, in row order: large_string, or int64 of a column of whole numbers.

        Raises:
            ProtoRKDError: as `key_column`.
        """

    def blocks(self, columns: VectorColumns) -> Iterator[VectorBlock]:
        """Read the vectors, at most `BLOCK_ROWS` at a time, in the order of the keys.

        Raises:
            ProtoRKDError: they are no vectors of one width, or the file is damaged.
        """


def as_keys(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Convert a column of keys to text, or to int64 where it holds whole numbers."""
    kind = pa.int64() if pa.types.is_integer(column.type) else pa.large_string()
    converted = column.cast(kind)
    return converted.combine_chunks() if isinstance(converted, pa.ChunkedArray) else converted
