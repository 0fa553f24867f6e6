"""The pair index on disk: which picture goes with which caption row, and what the captions are, in parquet."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from data_schemas.errors import ProtoRKDError
from data_schemas.files import write_atomic_by
from data_schemas.manifest import Rejection

PAIRS_NAME = "pairs.parquet"
CAPTIONS_NAME = "captions.parquet"
REJECTED_NAME = "rejected.parquet"

PAIRS_SCHEMA = pa.schema(
    [
        pa.field("manifest_row", pa.int64(), nullable=False),
        pa.field("image", pa.large_string(), nullable=False),
        pa.field("caption_row", pa.int64(), nullable=False),
    ],
    metadata={"protorkd": "pairs 1"},
)
CAPTIONS_SCHEMA = pa.schema(
    [pa.field("caption_row", pa.int64(), nullable=False), pa.field("caption", pa.large_string(), nullable=False)],
    metadata={"protorkd": "captions 1"},
)
REJECTED_SCHEMA = pa.schema(
    [
        pa.field("row", pa.int64(), nullable=False),
        pa.field("reason", pa.large_string(), nullable=False),
        pa.field("value", pa.large_string(), nullable=False),
    ],
    metadata={"protorkd": "rejected 1"},
)


def write_pairs(root: Path, table: pa.Table) -> None:
    """Write the pair index into an artifact's folder.

    Args:
        root: the artifact's folder.
        table: manifest_row, image (as the manifest writes it) and caption_row, one row a pair, in manifest order.
    """
    _write(root / PAIRS_NAME, table.cast(PAIRS_SCHEMA))


def read_pairs(root: Path) -> pa.Table:
    """Read the pair index; columns as `write_pairs` takes them.

    Raises:
        ProtoRKDError: it is missing, damaged or of another kind.
    """
    return _read(root / PAIRS_NAME, PAIRS_SCHEMA)


def write_captions(root: Path, captions: pa.Array) -> None:
    """Write the distinct captions into an artifact's folder; row k's embedding is row k of the array."""
    rows = pa.array(range(len(captions)), pa.int64())
    _write(root / CAPTIONS_NAME, pa.table([rows, captions], schema=CAPTIONS_SCHEMA))


def read_captions(root: Path) -> pa.Array:
    """Read the distinct captions, in row order.

    Raises:
        ProtoRKDError: they are missing, damaged or of another kind.
    """
    return _read(root / CAPTIONS_NAME, CAPTIONS_SCHEMA)["caption"].combine_chunks()


def write_rejected(root: Path, rejections: Sequence[Rejection]) -> None:
    """Write which rows were left out, and why."""
    columns = [
        [entry.row for entry in rejections],
        [entry.reason for entry in rejections],
        [entry.value for entry in rejections],
    ]
    arrays = [pa.array(column, field.type) for column, field in zip(columns, REJECTED_SCHEMA, strict=True)]
    _write(root / REJECTED_NAME, pa.table(arrays, schema=REJECTED_SCHEMA))


def read_rejected(root: Path) -> list[Rejection]:
    """Read which rows were left out, and why."""
    return [Rejection(**entry) for entry in _read(root / REJECTED_NAME, REJECTED_SCHEMA).to_pylist()]


def _write(path: Path, table: pa.Table) -> None:
    write_atomic_by(path, lambda partial: pq.write_table(table, partial, write_page_checksum=True))


def _read(path: Path, schema: pa.Schema) -> pa.Table:
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        names = table.schema.names
    except (OSError, ValueError, pa.ArrowException) as error:  # a damaged footer decodes to anything
        raise ProtoRKDError(f"{path} must be a whole parquet file; {error}. Run its stage again.") from error
    if not table.schema.equals(schema):
        raise ProtoRKDError(f"{path} must have the columns {schema.names}; got {names}.")
    return table
