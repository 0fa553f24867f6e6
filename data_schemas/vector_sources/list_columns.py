"""Vectors in a parquet file: a column of lists, or of lists of a fixed size, beside a column of keys."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from data_schemas.errors import ProtoRKDError
from data_schemas.pair_sources.columns import shown
from data_schemas.vector_sources.part import BLOCK_ROWS, VectorBlock, VectorColumns, as_keys

_BUFFER_BYTES = 1 << 20


class ParquetVectors:
    """A parquet file with a column of vectors.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.files: tuple[Path, ...] = (path,)

    def key_column(self, columns: VectorColumns) -> str:
        """Return the name of the column of keys, as `VectorPart.key_column` does."""
        return columns.choose_key(self._open().schema_arrow.names, self.path)

    def keys(self, columns: VectorColumns) -> pa.Array:
        """Read the keys, as `VectorPart.keys` does."""
        file = self._open()
        name = columns.choose_key(file.schema_arrow.names, self.path)
        try:
            return as_keys(file.read(columns=[name])[name])
        except (OSError, ValueError, pa.ArrowException) as error:
            raise self._damaged(error) from error

    def blocks(self, columns: VectorColumns) -> Iterator[VectorBlock]:
        """Read the vectors, as `VectorPart.blocks` does."""
        file = self._open()
        name = self._vector_column(file.schema_arrow, columns.vector)
        start = 0
        batches = file.iter_batches(batch_size=BLOCK_ROWS, columns=[name])
        while True:
            try:
                batch = next(batches, None)
            except (OSError, ValueError, pa.ArrowException) as error:
                raise self._damaged(error) from error
            if batch is None:
                return
            yield self._block(batch.column(0), start)
            start += batch.num_rows

    def _block(self, column: pa.Array, start: int) -> VectorBlock:
        """Turn a column of lists into rows of one width; those that are null have zeros."""
        is_valid = column.is_valid().to_numpy(zero_copy_only=False)
        lists = column.drop_null()
        if not len(lists):
            return VectorBlock(start, np.zeros((len(column), 0), np.float32), is_valid)
        widths = np.unique(pc.list_value_length(lists).to_numpy(zero_copy_only=False))
        numbers = lists.flatten()
        if len(widths) > 1 or numbers.null_count:
            lengths = pc.list_value_length(column).fill_null(-1).to_numpy(zero_copy_only=False)
            usual = np.bincount(lengths[lengths >= 0]).argmax()
            odd = np.flatnonzero(is_valid & (lengths != usual))
            raise ProtoRKDError(
                f"{self.path} must hold vectors of one width, without nulls in them; row {start + int(odd[0])} has "
                f"{lengths[odd[0]]} numbers, others have {usual}."
                if odd.size
                else f"{self.path} must hold vectors without nulls in them; one of rows {start} to "
                f"{start + len(column)} has some."
            )
        values = numbers.to_numpy(zero_copy_only=False).reshape(len(lists), -1)
        if is_valid.all():
            return VectorBlock(start, values, is_valid)
        whole = np.zeros((len(column), values.shape[1]), values.dtype)
        whole[is_valid] = values
        return VectorBlock(start, whole, is_valid)

    def _vector_column(self, schema: pa.Schema, asked: str) -> str:
        fitting = [field.name for field in schema if _holds_vectors(field.type)]
        if asked in fitting:
            return asked
        if asked or len(fitting) != 1:
            got = repr(asked) if asked else f"{len(fitting)} such columns"
            raise ProtoRKDError(
                f"{self.path} must have a column of lists of numbers (--vector-column); got {got}. Its columns of "
                f"lists: {shown(fitting) if fitting else 'none'}; all: {shown(schema.names)}."
            )
        only: str = fitting[0]
        return only

    def _open(self) -> pq.ParquetFile:
        try:
            return pq.ParquetFile(self.path, buffer_size=_BUFFER_BYTES, page_checksum_verification=True)
        except (OSError, ValueError, pa.ArrowException) as error:
            raise self._damaged(error) from error

    def _damaged(self, error: Exception) -> ProtoRKDError:
        return ProtoRKDError(f"{self.path} must be a whole parquet file; {error}. Fetch or write it again.")


def _holds_vectors(kind: pa.DataType) -> bool:
    is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    return bool(is_list and (pa.types.is_floating(kind.value_type) or pa.types.is_integer(kind.value_type)))
