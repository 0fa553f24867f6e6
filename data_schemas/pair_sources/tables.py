"""Tables with typed columns, from parquet and arrow files: choose columns, and turn batches into pairs."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_schemas.errors import ProtoRKDError
from data_schemas.manifest import VALUE_CHARS, Rejection
from data_schemas.pair_sources.blocks import Block, judge
from data_schemas.pair_sources.columns import Columns
from data_schemas.records.arrow import holds_bytes


@dataclass(frozen=True)
class TableColumns:
    """The columns of a table that hold images, captions and labels.

    Args:
        columns: Names of the columns.
        holds_bytes: Whether the image column holds images, not their paths.
    """

    columns: Columns
    holds_bytes: bool

    @classmethod
    def of(cls, schema: pa.Schema, asked: Columns, path: Path) -> "TableColumns":
        """Choose columns, and refuse those whose types do not fit.

        Raises:
            ProtoRKDError: a column is missing or of another type.
        """
        columns = asked.chosen(schema.names, path, holds_bytes=True)
        caption, image = schema.field(columns.caption).type, schema.field(columns.image).type
        _check(caption, _is_text(caption) or _is_text_list(caption), columns.caption, "text or lists of texts", path)
        is_image = holds_bytes(image)
        _check(image, is_image or _is_text(image), columns.image, "paths, bytes, or structures with bytes", path)
        if columns.label:
            label = schema.field(columns.label).type
            _check(label, _is_text(label) or pa.types.is_integer(label), columns.label, "text or integers", path)
        return cls(columns, is_image)


def table_block(
    batch: pa.RecordBatch, chosen: TableColumns, *, first_row: int, locators: pa.LargeStringArray | None
) -> Block:
    """Make pairs of a batch.

    Args:
        batch: Batch of rows that has the columns.
        chosen: Columns to read.
        first_row: Number of the batch's first row in the file.
        locators: Locators of the batch's images, null where there is none; None takes the paths in the image column.
    """
    columns = chosen.columns
    rows = pa.array(np.arange(first_row, first_row + batch.num_rows))
    captions, rejections = batch.column(columns.caption), []
    images = texts_of(batch.column(columns.image)) if locators is None else locators
    labels = texts_of(batch.column(columns.label)) if columns.label else None
    broken = _broken(images, captions, labels)
    if broken.any():
        good = np.flatnonzero(~broken)
        rejections = [
            Rejection(first_row + row, "text that is no Unicode", "") for row in np.flatnonzero(broken).tolist()
        ]
        rows, images, captions = (column.take(pa.array(good)) for column in (rows, images, captions))
        labels = None if labels is None else labels.take(pa.array(good))
    if _is_text_list(captions.type):
        rows, images, captions, labels, empty = _flatten(rows, images, captions, labels)
        rejections += [Rejection(row, "empty caption", f"{image}"[:VALUE_CHARS]) for row, image in empty]
    return judge(rows, images, texts_of(captions), labels, num_records=batch.num_rows, rejections=rejections)


def joined(*parts: str | pa.Array) -> pa.LargeStringArray:
    """Concatenate texts row by row; null where one of them is null."""
    texts = [pa.scalar(part, pa.large_string()) if isinstance(part, str) else texts_of(part) for part in parts]
    return pc.binary_join_element_wise(*texts, pa.scalar("", pa.large_string()))


def texts_of(column: pa.Array) -> pa.LargeStringArray:
    """Return a column as texts."""
    return column.cast(pa.large_string())


def _flatten(
    rows: pa.Array, images: pa.Array, captions: pa.Array, labels: pa.Array | None
) -> tuple[pa.Array, pa.Array, pa.Array, pa.Array | None, list[tuple[int, str | None]]]:
    """Give each caption of a list a row of its own; return also the rows whose lists are empty."""
    counts = pc.list_value_length(captions).fill_null(0).to_numpy(zero_copy_only=False)
    empty = pa.array(np.flatnonzero(counts == 0))
    parents = pc.list_parent_indices(captions)
    without = list(zip(rows.take(empty).to_pylist(), images.take(empty).to_pylist(), strict=True))
    labels = None if labels is None else labels.take(parents)
    return rows.take(parents), images.take(parents), pc.list_flatten(captions), labels, without


def _broken(*columns: pa.Array | None) -> np.ndarray:
    """Find the rows with text that is not UTF-8, which no reader has checked yet."""
    bad = np.zeros(next(len(column) for column in columns if column is not None), np.bool_)
    for column in columns:
        if column is not None and not _is_sound(column):
            bad |= [not _is_sound(column.slice(row, 1)) for row in range(len(column))]
    return bad


def _is_sound(column: pa.Array) -> bool:
    try:
        column.validate(full=True)
    except pa.ArrowInvalid:
        return False
    return True


def _check(kind: pa.DataType, holds: bool, column: str, rule: str, path: Path) -> None:
    if not holds:
        raise ProtoRKDError(
            f"Column {column!r} of {path} must hold {rule}; got {kind}. Name another with --image-key or --caption-key."
        )


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        return _is_text(kind.value_type)
    return any(is_kind(kind) for is_kind in (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view))


def _is_text_list(kind: pa.DataType) -> bool:
    return (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and _is_text(kind.value_type)
