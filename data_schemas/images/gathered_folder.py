"""A gathered folder on disk: images by row, what became of each row, and the record that makes it resumable.

<row % 1000>/<row>.jpg     images
manifest.tsv               filepath, title
status.parquet             what became of each row, in order
.gather/request.json       what the folder was gathered from, and how
.gather/blocks/N.parquet   what became of rows, as it came in, until status.parquet has it
.gather/partial/           images that are not whole yet
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_schemas.errors import ProtoRKDError, in_one_line
from data_schemas.files import disk_errors, fsync, write_atomic_by

MANIFEST_NAME = "manifest.tsv"
STATUS_NAME = "status.parquet"
STATE_FOLDER = ".gather"
REQUEST_PATH = f"{STATE_FOLDER}/request.json"
LOCK_PATH = f"{STATE_FOLDER}/lock"
BLOCKS_FOLDER = f"{STATE_FOLDER}/blocks"
PARTIAL_FOLDER = f"{STATE_FOLDER}/partial"

OK, FAILED, REJECTED, INVALID = "ok", "failed", "rejected", "invalid"
STATUSES = {
    OK: "the image is kept",
    FAILED: "no bytes came; another time they may",
    REJECTED: "bytes came, and are no image that is kept",
    INVALID: "the row has no caption or no address that may be asked",
}

_FIELDS = [
    pa.field("row", pa.int64(), nullable=False),
    pa.field("status", pa.dictionary(pa.int32(), pa.string()), nullable=False),
    pa.field("reason", pa.dictionary(pa.int32(), pa.string()), nullable=False),
    pa.field("detail", pa.large_string(), nullable=False),
    pa.field("http_status", pa.int16()),
    pa.field("bytes", pa.int64()),
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("seconds", pa.float32(), nullable=False),
    pa.field("sha256", pa.large_string()),
]
OUTCOME_SCHEMA = pa.schema(_FIELDS, metadata={"protorkd": "gathered block 1"})
STATUS_SCHEMA = pa.schema(
    [
        _FIELDS[0],
        pa.field("url", pa.large_string(), nullable=False),
        *_FIELDS[1:],
        pa.field("image", pa.large_string()),
    ],
    metadata={"protorkd": "gathered status 1"},
)


@dataclass(frozen=True, slots=True)
class RowOutcome:
    """The outcome of one row: an image that is kept, or the reason why there is none.

    Args:
        row: Line of the table in which the row begins, from 0; empty lines and a header count.
        status: One of `STATUSES`.
        reason: Short sentence, one of a fixed few; "" for an image that is kept.
        detail: What differs from row to row; may be "".
        http_status: Last HTTP status received; None if none was.
        bytes: Size of the decompressed body; None if none came whole.
        width: Width of the kept image, in pixels; None if none is kept.
        height: Height of the kept image, in pixels; None if none is kept.
        seconds: Time from the first request to the end, waits included.
        sha256: SHA-256 of the kept file; None if none is kept.
    """

    row: int
    status: str
    reason: str = ""
    detail: str = ""
    http_status: int | None = None
    bytes: int | None = None
    width: int | None = None
    height: int | None = None
    seconds: float = 0.0
    sha256: str | None = None


def image_path(row: int) -> str:
    """Return the path of a row's image, relative to the folder; a thousand subfolders share the images."""
    return f"{row % 1000}/{row}.jpg"


def write_block(root: Path, number: int, outcomes: Sequence[RowOutcome]) -> None:
    """Write the outcomes of some rows, whole or not at all; their images must be on disk before.

    Raises:
        ProtoRKDError: the disk is full or the folder cannot be written.
    """
    columns = [[getattr(outcome, field.name) for outcome in outcomes] for field in OUTCOME_SCHEMA]
    arrays = [_encode(column, field.type) for column, field in zip(columns, OUTCOME_SCHEMA, strict=True)]
    table = pa.table(arrays, schema=OUTCOME_SCHEMA)
    path = root / BLOCKS_FOLDER / f"{number:08}.parquet"
    write_atomic_by(path, lambda partial: pq.write_table(table, partial, write_page_checksum=True), flag="--output")


def block_numbers(root: Path) -> list[int]:
    """List the blocks on disk, in the order in which they were written."""
    return sorted(int(path.stem) for path in (root / BLOCKS_FOLDER).glob("[0-9]*.parquet"))


def drop_blocks(root: Path, numbers: Iterable[int]) -> None:
    """Remove blocks whose outcomes ``status.parquet`` holds by now."""
    folder = root / BLOCKS_FOLDER
    with disk_errors(folder, flag="--output"):
        for number in numbers:
            (folder / f"{number:08}.parquet").unlink(missing_ok=True)
        fsync(folder)


def read_outcomes(root: Path, columns: Sequence[str] = OUTCOME_SCHEMA.names) -> pa.Table:
    """Read the outcomes in ``status.parquet`` and the blocks after it; the last one of a row counts.

    Args:
        root: The gathered folder.
        columns: Columns of `OUTCOME_SCHEMA` to read; must include ``row``.

    Returns:
        A table by ascending row, each row once.

    Raises:
        ProtoRKDError: a file is damaged.
    """
    schema = pa.schema([OUTCOME_SCHEMA.field(name) for name in columns])
    folder = root / BLOCKS_FOLDER
    tables = [schema.empty_table()]
    if (root / STATUS_NAME).exists():
        tables.append(_read(root / STATUS_NAME, STATUS_SCHEMA, schema))
    tables += [_read(folder / f"{number:08}.parquet", OUTCOME_SCHEMA, schema) for number in block_numbers(root)]
    table = pa.concat_tables(tables).unify_dictionaries()
    del tables
    rows = table["row"].to_numpy()
    order = np.argsort(rows, kind="stable")
    ascending = rows[order]
    last = np.ones(len(rows), np.bool_)
    last[:-1] = ascending[1:] != ascending[:-1]
    chosen = pa.array(order[last])
    unsorted = table.columns[::-1]
    del table
    # One column after the other, so that only one of them at a time is in memory twice.
    return pa.table([unsorted.pop().take(chosen) for _ in schema], schema=schema)


def read_status(root: Path, columns: Sequence[str]) -> pa.Table:
    """Read columns of ``status.parquet``.

    Raises:
        ProtoRKDError: it is missing or damaged.
    """
    return _read(root / STATUS_NAME, STATUS_SCHEMA, pa.schema([STATUS_SCHEMA.field(name) for name in columns]))


def write_status(root: Path, tables: Iterable[pa.Table]) -> None:
    """Write ``status.parquet`` piece by piece.

    Args:
        root: The gathered folder.
        tables: Pieces of the table, of `STATUS_SCHEMA` and by ascending row.

    Raises:
        ProtoRKDError: the disk is full or the folder cannot be written.
    """

    def write(partial: Path) -> None:
        with pq.ParquetWriter(partial, STATUS_SCHEMA, write_page_checksum=True) as writer:
            for table in tables:
                writer.write_table(table)

    write_atomic_by(root / STATUS_NAME, write, flag="--output")


def rows_of(table: pa.Table, status: str | None = None) -> NDArray[np.int64]:
    """Return the rows of a table of outcomes, all or those with one status."""
    if status is not None:
        table = table.filter(pc.equal(table["status"].cast(pa.string()), status))
    rows: NDArray[np.int64] = table["row"].to_numpy()
    return rows


def _encode(column: list[object], kind: pa.DataType) -> pa.Array:
    return pa.array(column, pa.string()).dictionary_encode() if pa.types.is_dictionary(kind) else pa.array(column, kind)


def _read(path: Path, schema: pa.Schema, wanted: pa.Schema) -> pa.Table:
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            if file.schema_arrow.metadata.get(b"protorkd") != schema.metadata[b"protorkd"]:
                raise ProtoRKDError(f"{path} must be written by gather-cc; it is not. Pass another --output.")
            return file.read(wanted.names).select(wanted.names).cast(wanted)
    except (OSError, ValueError, pa.ArrowException) as error:  # a damaged footer decodes to anything
        said = in_one_line(error)
        raise ProtoRKDError(
            f"{path} must be a whole parquet file; {said}. Remove it and run gather-cc again, for its rows."
        ) from error
