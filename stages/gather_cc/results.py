"""Write the results when all rows are done, ``status.parquet`` and ``manifest.tsv``, and count reasons of loss."""

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_schemas.files import write_atomic_by
from data_schemas.images.gathered_folder import (
    MANIFEST_NAME,
    OK,
    STATUS_NAME,
    STATUS_SCHEMA,
    block_numbers,
    drop_blocks,
    image_path,
    read_outcomes,
    read_status,
    rows_of,
    write_status,
)
from stages.gather_cc.url_table import Block, Plan, Table

_HEADER = ("filepath", "title")
_NEEDS_QUOTES = '["\\t\\r\\n]'


def is_complete(root: Path, rows: NDArray[np.int64]) -> bool:
    """Return whether the results include these rows and nothing has been requested since."""
    if block_numbers(root) or not (root / STATUS_NAME).exists() or not (root / MANIFEST_NAME).exists():
        return False
    return bool(np.isin(rows, rows_of(read_status(root, ["row"]))).all())


def write_results(root: Path, table: Table, plan: Plan, rows: NDArray[np.int64]) -> None:
    """Write status and manifest of some rows, and of those in earlier results; then drop the journal.

    Args:
        root: Folder of the images.
        table: Table of captions and URLs.
        plan: Rows of the table; those that share a URL share the outcome of the first.
        rows: Rows that are done by now.

    Raises:
        ProtoRKDError: the disk is full, the folder cannot be written, or a file in it is damaged.
    """
    blocks = block_numbers(root)
    outcomes = read_outcomes(root)
    known = rows_of(outcomes)
    wanted = np.isin(plan.rows, rows) | np.isin(plan.rows, known)
    places = np.searchsorted(known, plan.first)
    is_ok = np.zeros(len(plan.rows), np.bool_)
    is_ok[wanted] = pc.equal(outcomes["status"].cast(pa.string()), OK).to_numpy()[places[wanted]]
    write_status(root, _status_tables(table, plan, wanted=wanted, outcomes=outcomes, places=places))
    del outcomes  # a third of a gigabyte for Conceptual Captions
    _write_manifest(root / MANIFEST_NAME, table, plan, is_ok)
    drop_blocks(root, blocks)


def _write_manifest(path: Path, table: Table, plan: Plan, is_ok: NDArray[np.bool_]) -> None:
    """Write the manifest of kept rows; if one caption needs quotes, all get them, so that readers need not guess."""

    def kept() -> Iterator[tuple[NDArray[np.int64], pa.Array]]:
        for start, block in _numbered(table):
            part = slice(start, start + len(block))
            yield plan.first[part][is_ok[part]], block.captions.filter(pa.array(is_ok[part]))

    quoted = any(pc.any(pc.match_substring_regex(captions, _NEEDS_QUOTES)).as_py() for _, captions in kept())

    def write(partial: Path) -> None:
        with partial.open("w", newline="", encoding="utf-8") as file:
            plain = csv.writer(file, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_NONE, quotechar=None)
            writer = csv.writer(file, delimiter="\t", lineterminator="\n", quoting=csv.QUOTE_ALL) if quoted else plain
            writer.writerow(_HEADER)
            for rows, captions in kept():
                writer.writerows(zip(map(image_path, rows.tolist()), captions.to_pylist(), strict=True))

    write_atomic_by(path, write, flag="--output")


def count_reasons(root: Path) -> tuple[dict[str, int], dict[tuple[str, str], int]]:
    """Count the outcomes of rows: by status, and by status and reason, the most frequent first."""
    table = read_status(root, ["status", "reason"])
    plain = pa.table({name: table[name].cast(pa.string()) for name in table.column_names})
    groups = plain.group_by(["status", "reason"]).aggregate([([], "count_all")]).to_pylist()
    reasons = Counter({(group["status"], group["reason"]): group["count_all"] for group in groups})
    statuses: Counter[str] = Counter()
    for (status, _), count in reasons.items():
        statuses[status] += count
    return dict(statuses), dict(sorted(reasons.items(), key=lambda entry: (entry[0][0] != OK, -entry[1], entry[0])))


def _status_tables(
    table: Table, plan: Plan, *, wanted: NDArray[np.bool_], outcomes: pa.Table, places: NDArray[np.int64]
) -> Iterator[pa.Table]:
    for start, block in _numbered(table):
        part = slice(start, start + len(block))
        chosen = np.flatnonzero(wanted[part])
        known = outcomes.take(pa.array(places[part][chosen]))
        is_ok = pc.equal(known["status"].cast(pa.string()), OK).to_pylist()
        images = [image_path(row) if ok else None for row, ok in zip(known["row"].to_pylist(), is_ok, strict=True)]
        known = known.set_column(0, STATUS_SCHEMA.field("row"), pa.array(plan.rows[part][chosen]))
        known = known.add_column(1, STATUS_SCHEMA.field("url"), block.urls.take(pa.array(chosen)))
        yield known.append_column(STATUS_SCHEMA.field("image"), pa.array(images, pa.large_string())).cast(STATUS_SCHEMA)


def _numbered(table: Table) -> Iterator[tuple[int, Block]]:
    """Yield the blocks of a table, each with the place of its first row among all rows."""
    start = 0
    for block in table.blocks():
        yield start, block
        start += len(block)
