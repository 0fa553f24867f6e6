"""Pairs in arrow files, as the datasets library saves a dataset to disk; read without that library."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_schemas.errors import ProtoRKDError
from data_schemas.pair_sources.blocks import Block
from data_schemas.pair_sources.columns import Columns
from data_schemas.pair_sources.source import Shard
from data_schemas.pair_sources.tables import TableColumns, joined, table_block, texts_of
from data_schemas.records.arrow import check_sound, image_bytes, read_batches
from data_schemas.regular_files import read_regular

STATE_NAME, INFO_NAME, DICT_NAME = "state.json", "dataset_info.json", "dataset_dict.json"


def read_arrow(shard: Shard, columns: Columns, notes: set[str]) -> Iterator[Block]:
    """Yield the rows of an arrow file."""
    first_row = 0
    for batch in read_batches(shard.path):
        chosen = TableColumns.of(batch.schema, columns, shard.path)
        notes |= set(chosen.columns.notes(columns))
        image = chosen.columns.image
        for name in filter(None, (image, chosen.columns.caption, chosen.columns.label)):
            check_sound(batch.column(name))
        locators = None
        if chosen.holds_bytes:
            locators = image_locators(batch.column(image), shard.name, image, first_row=first_row)
        yield table_block(batch, chosen, first_row=first_row, locators=locators)
        first_row += batch.num_rows


def image_locators(column: pa.Array, name: str, image: str, *, first_row: int) -> pa.LargeStringArray:
    """Return locators of the images in a column; a structure without bytes gives its path, or null."""
    locators = joined(f"{name}/", pa.array(np.arange(first_row, first_row + len(column))), f"/{image}")
    has_bytes = image_bytes(column).is_valid()
    paths = pa.nulls(len(column), pa.large_string())
    if pa.types.is_struct(column.type) and column.type.get_field_index("path") >= 0:
        paths = texts_of(column.field("path"))
    return pc.if_else(has_bytes, locators, paths)


def saved_files(folder: Path) -> list[Path]:
    """List the files of a dataset that was saved to disk, in their order.

    Raises:
        ProtoRKDError: the dataset's list of files is damaged, or a selection of its rows was not written out.
    """
    place = folder / STATE_NAME
    try:
        state = json.loads(read_regular(place))
        names = [entry["filename"] for entry in state["_data_files"]]
        indices = state.get("_indices_data_files") or state.get("_indices_files")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ProtoRKDError(f"{place} must be written by Dataset.save_to_disk; {error!r}. Save it again.") from error
    if indices:
        raise ProtoRKDError(f"{folder} must hold its rows as they are; it has a list of chosen rows. Save it again.")
    for name in names:
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".arrow"):
            raise ProtoRKDError(f"{place} must name arrow files beside it; got {name!r}. Save the dataset again.")
    return [folder / name for name in names]


def saved_splits(folder: Path) -> list[str]:
    """List the splits of a DatasetDict that was saved to disk."""
    return sorted(path.parent.name for path in folder.glob(f"*/{STATE_NAME}"))
