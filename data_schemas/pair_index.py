"""The pair index on disk, in parquet: the caption row of each image, and the captions themselves."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_schemas.errors import ProtoRKDError, in_one_line
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
LABELLED_PAIRS_SCHEMA = PAIRS_SCHEMA.append(pa.field("label", pa.large_string()))
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
        root: The artifact's folder.
        table: One row a pair, in manifest order: manifest_row, image (as the manifest writes it) and caption_row; where
            pairs have labels also label, null where a pair has none.
    """
    labelled = "label" in table.column_names
    _write(root / PAIRS_NAME, table.cast(LABELLED_PAIRS_SCHEMA if labelled else PAIRS_SCHEMA))


def read_pairs(root: Path) -> pa.Table:
    """Read the pair index; columns as `write_pairs` takes them.

    Raises:
        ProtoRKDError: it is missing, damaged or of another kind.
    """
    return _read(root / PAIRS_NAME, PAIRS_SCHEMA, LABELLED_PAIRS_SCHEMA)


def read_labels(root: Path) -> tuple[list[str], NDArray[np.int64]]:
    """Read the names of the distinct labels, sorted, and which of them each pair has.

    Raises:
        ProtoRKDError: as `read_pairs`.

    Shapes:
        returns: the names, none where pairs have no labels; (pairs,), int64, index into the names, -1 where unlabelled.
    """
    table = read_pairs(root)
    if "label" not in table.column_names:
        return [], np.full(table.num_rows, -1)
    labels = table["label"]
    names = sorted(label for label in labels.unique().to_pylist() if label)
    places = pc.index_in(labels, value_set=pa.array(names, pa.large_string()))
    return names, places.fill_null(-1).to_numpy().astype(np.int64)


def write_captions(root: Path, captions: pa.Array) -> None:
    """Write the distinct captions into an artifact's folder; row k's embedding is row k of the array."""
    rows = pa.array(np.arange(len(captions)))
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


def _read(path: Path, *schemas: pa.Schema) -> pa.Table:
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        names = table.schema.names
    except (OSError, ValueError, pa.ArrowException) as error:  # a damaged footer decodes to anything
        raise ProtoRKDError(
            f"{path} must be a whole parquet file; {in_one_line(error)}. Run its stage again."
        ) from error
    if not any(table.schema.equals(schema) for schema in schemas):
        raise ProtoRKDError(f"{path} must have the columns {schemas[0].names}; got {names}.")
    return table
