"""What is left when all rows are asked: ``status.parquet``, ``manifest.tsv``, and why rows were lost."""

import csv
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_schemas.files import write_atomic_by
from data_schemas.gathered import (
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
from stages.gather_cc.table import Plan, Row, Table

_HEADER = ("filepath", "title")
_NEEDS_QUOTES = frozenset('"\t\r\n')


def is_complete(root: Path, rows: NDArray[np.int64]) -> bool:
    """Whether the results of these rows stand and nothing has been asked since."""
    if block_numbers(root) or not (root / STATUS_NAME).exists() or not (root / MANIFEST_NAME).exists():
        return False
    return bool(np.isin(rows, rows_of(read_status(root, ["row"]))).all())


def write_results(root: Path, table: Table, plan: Plan, rows: NDArray[np.int64]) -> None:
    """Write status and manifest of some rows, and of all of which they knew before; then drop the journal.

    Args:
        root: the gathered folder.
        table: what was gathered.
        plan: its rows. Those that share a URL share what became of the first.
        rows: which of them have been asked by now.

    Raises:
        ProtoRKDError: the disk is full, the folder cannot be written, or a file in it is damaged.
    """
    blocks = block_numbers(root)
    outcomes = read_outcomes(root)
    known = rows_of(outcomes)
    wanted = np.isin(plan.rows, rows) | np.isin(plan.rows, known)
    places = np.searchsorted(known, plan.first)
    status = outcomes["status"].cast(pa.string())
    is_ok = np.zeros(len(plan.rows), np.bool_)
    is_ok[wanted] = pc.equal(status, OK).to_numpy()[places[wanted]]

    def kept() -> Iterator[tuple[int, str]]:
        for start, block in _numbered(table):
            for place in np.flatnonzero(is_ok[start : start + len(block)]).tolist():
                yield int(plan.first[start + place]), block[place].caption

    write_status(root, _status_tables(table, plan, wanted=wanted, outcomes=outcomes, places=places))
    quoted = any(_NEEDS_QUOTES.intersection(caption) for _, caption in kept())

    def write(partial: Path) -> None:
        with partial.open("w", newline="", encoding="utf-8") as file:
            quoting = csv.QUOTE_ALL if quoted else csv.QUOTE_NONE
            writer = csv.writer(file, delimiter="\t", lineterminator="\n", quoting=quoting)
            writer.writerow(_HEADER)  # in quotes like the rest, so that no reader has to guess
            writer.writerows((image_path(row), caption) for row, caption in kept())

    write_atomic_by(root / MANIFEST_NAME, write, flag="--output")
    drop_blocks(root, blocks)


def count_reasons(root: Path) -> tuple[dict[str, int], dict[tuple[str, str], int]]:
    """Count what became of rows: by status, and by status and reason, the most frequent first."""
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
        found = outcomes.take(pa.array(places[part][chosen]))
        is_ok = pc.equal(found["status"].cast(pa.string()), OK).to_pylist()
        images = [image_path(row) if ok else None for row, ok in zip(found["row"].to_pylist(), is_ok, strict=True)]
        found = found.set_column(0, STATUS_SCHEMA.field("row"), pa.array(plan.rows[part][chosen]))
        urls = [block[place].url for place in chosen.tolist()]
        found = found.add_column(1, STATUS_SCHEMA.field("url"), pa.array(urls, pa.large_string()))
        yield found.append_column(STATUS_SCHEMA.field("image"), pa.array(images, pa.large_string())).cast(STATUS_SCHEMA)


def _numbered(table: Table) -> Iterator[tuple[int, list[Row]]]:
    """Go through the blocks of a table, each with the place of its first row among all rows."""
    start = 0
    for block in table.blocks():
        yield start, block
        start += len(block)
