"""Pairs in parquet: paths in a column, or the images' own bytes."""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from data_schemas.pair_sources.arrow import image_locators
from data_schemas.pair_sources.blocks import BLOCK_RECORDS, Block
from data_schemas.pair_sources.columns import Columns
from data_schemas.pair_sources.source import Shard
from data_schemas.pair_sources.tables import TableColumns, joined, table_block
from data_schemas.records.parquet import image_leaf, leaf_metadata, open_parquet

_IMAGE_ROWS = 64  # rows decoded at once where images have to be looked at


def read_parquet(shard: Shard, columns: Columns, notes: set[str]) -> Iterator[Block]:
    """Yield the rows; image bytes are read only in groups where some may be absent."""
    file = open_parquet(shard.path)
    chosen = TableColumns.of(file.schema_arrow, columns, shard.path)
    notes |= set(chosen.columns.notes(columns))
    looks = [False] * file.metadata.num_row_groups
    if chosen.holds_bytes:
        leaf = image_leaf(file.schema_arrow, chosen.columns.image)
        looks = [_may_lack(known) for known in leaf_metadata(shard.path, leaf)]
    first_row = 0
    for group, look in enumerate(looks):
        for batch in _batches(file, group, chosen, look=look):
            locators = _locators(batch, chosen, shard, first_row=first_row, look=look)
            yield table_block(batch, chosen, first_row=first_row, locators=locators)
            first_row += batch.num_rows


def _batches(file: pq.ParquetFile, group: int, chosen: TableColumns, *, look: bool) -> Iterator[pa.RecordBatch]:
    columns = chosen.columns
    wanted = [columns.caption, *([columns.label] if columns.label else [])]
    if look or not chosen.holds_bytes:
        wanted.append(columns.image)
    rows = _IMAGE_ROWS if look else BLOCK_RECORDS
    yield from file.iter_batches(rows, row_groups=[group], columns=wanted, use_threads=False)


def _may_lack(known: pq.ColumnChunkMetaData) -> bool:
    """Tell by the file's own statistics whether a row of a group may have no image."""
    counted = known.statistics
    return counted is None or not counted.has_null_count or counted.null_count > 0


def _locators(
    batch: pa.RecordBatch, chosen: TableColumns, shard: Shard, *, first_row: int, look: bool
) -> pa.LargeStringArray | None:
    if not chosen.holds_bytes:
        return None
    image = chosen.columns.image
    if look:
        return image_locators(batch.column(image), shard.name, image, first_row=first_row)
    return joined(f"{shard.name}/", pa.array(np.arange(first_row, first_row + batch.num_rows)), f"/{image}")
