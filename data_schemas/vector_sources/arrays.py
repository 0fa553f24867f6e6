"""Vectors in an array, npy or zarr, beside a table that says whose each row is."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_schemas.embedding_array import FEATURE_KIND
from data_schemas.errors import ProtoRKDError
from data_schemas.images.image_features import CONFIG_NAME, FeaturesConfig
from data_schemas.vector_sources.part import BLOCK_ROWS, POSITION, ROW_KEY, VectorBlock, VectorColumns, as_keys

_TABLE_SUFFIXES = (".parquet", ".tsv", ".csv", ".txt")
_TABLES_OF_ARTIFACTS = ("images.parquet", "captions.parquet")
_ROW_COLUMNS = ("image_row", "caption_row")
_LINE = "line"  # name of the one column of a text file


class ArrayVectors:
    """An array of vectors, and the table of their keys: of the same name, or the one of an artifact.

    A table has a row for each row of the array, or says with ``image_row`` or ``caption_row`` which one.

    Args:
        path: An npy file, or the folder of a zarr array.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._table = _find_table(path)
        array_files = sorted(each for each in path.rglob("*") if each.is_file()) if path.is_dir() else [path]
        self.files = (*array_files, *([self._table] if self._table else []))

    def key_column(self, columns: VectorColumns) -> str:
        """Return the name of the column of keys, as `VectorPart.key_column` does."""
        if self._table is None:
            if ROW_KEY in columns.known:
                return POSITION
            raise self._without_table()
        if self._table.suffix == ".txt":
            return columns.known[0]
        return columns.choose_key(self._read_table().column_names, self._table)

    def keys(self, columns: VectorColumns) -> pa.Array:
        """Read the keys, as `VectorPart.keys` does; without a table they are the rows' numbers."""
        if self._table is None:
            return pa.array(np.arange(self._open().shape[0]))
        table = self._read_table()
        name = _LINE if self._table.suffix == ".txt" else columns.choose_key(table.column_names, self._table)
        return as_keys(table[name].take(pa.array(self._order(table))))

    def blocks(self, columns: VectorColumns) -> Iterator[VectorBlock]:  # noqa: ARG002 - as in `VectorPart`
        """Read the vectors, as `VectorPart.blocks` does."""
        array = self._open()
        rows = np.arange(array.shape[0])
        if self._table is not None:
            table = self._read_table()
            rows = self._rows(table, array.shape[0])[self._order(table)]
        for start in range(0, array.shape[0], BLOCK_ROWS):
            first, last = np.searchsorted(rows, [start, start + BLOCK_ROWS])
            if first == last:
                continue
            try:
                read = np.asarray(array[start : start + BLOCK_ROWS])
            except (OSError, ValueError) as error:
                raise ProtoRKDError(f"{self.path} must be a whole array; {error}. Fetch or write it again.") from error
            yield VectorBlock(int(first), read[rows[first:last] - start], np.ones(last - first, np.bool_))

    def _order(self, table: pa.Table) -> NDArray[np.int64]:
        """Return the order of the table's rows in which the array is read from its beginning to its end."""
        name = next((name for name in _ROW_COLUMNS if name in table.column_names), None)
        return np.arange(len(table)) if name is None else np.argsort(table[name].to_numpy(), kind="stable")

    def _rows(self, table: pa.Table, length: int) -> NDArray[np.int64]:
        """Return the array's row of each row of the table."""
        name = next((name for name in _ROW_COLUMNS if name in table.column_names), None)
        rows: NDArray[np.int64] = np.arange(len(table)) if name is None else table[name].to_numpy()
        if (name is None and len(rows) != length) or (len(rows) and not 0 <= rows.min() <= rows.max() < length):
            raise ProtoRKDError(
                f"{self._table} must have a key for each vector; got {len(rows):,} keys for the {length:,} vectors of "
                f"{self.path}."
            )
        return rows

    def _open(self) -> Any:
        try:
            if self.path.is_dir():
                import zarr  # keeps it out of "unchanged"

                array: Any = zarr.open_array(self.path, mode="r")
                self._check_views(array)
            else:
                array = np.load(self.path, mmap_mode="r", allow_pickle=False)
        except ProtoRKDError:
            raise
        except Exception as error:  # zarr raises many kinds
            raise ProtoRKDError(f"{self.path} must be an array of vectors; {error}. Write it again.") from error
        if array.ndim != 2 or np.dtype(array.dtype).kind not in "fiu":
            raise ProtoRKDError(
                f"{self.path} must hold numbers of shape (vectors, width); got {array.dtype} of shape {array.shape}."
            )
        return array

    def _check_views(self, array: Any) -> None:
        """Refuse features with several views of an image, whose rows are not numbered as the table says."""
        if array.attrs.get("kind") == FEATURE_KIND and (self.path.parent / CONFIG_NAME).is_file():
            views = FeaturesConfig.read(self.path.parent).views
            if views > 1:
                raise ProtoRKDError(f"{self.path} must have one vector for each image; got {views} views of each.")

    def _read_table(self) -> pa.Table:
        assert self._table is not None
        try:
            if self._table.suffix == ".parquet":
                return pq.read_table(self._table)
            if self._table.suffix == ".txt":
                return pa.table({_LINE: self._table.read_text(encoding="utf-8").splitlines()})
            parsing = pyarrow.csv.ParseOptions(
                delimiter="\t" if self._table.suffix == ".tsv" else ",", newlines_in_values=True
            )
            return pyarrow.csv.read_csv(self._table, parse_options=parsing)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise ProtoRKDError(f"{self._table} must be a table of keys; {error}. Write it again.") from error

    def _without_table(self) -> ProtoRKDError:
        names = ", ".join(self.path.with_suffix(suffix).name for suffix in _TABLE_SUFFIXES)
        return ProtoRKDError(
            f"{self.path} must have a table beside it that says whose each vector is; got none of {names}."
        )


def _find_table(path: Path) -> Path | None:
    named = [path.with_suffix(suffix) for suffix in _TABLE_SUFFIXES]
    of_artifact = [path.with_name(name) for name in _TABLES_OF_ARTIFACTS] if path.is_dir() else []
    return next((place for place in (*named, *of_artifact) if place.is_file()), None)
