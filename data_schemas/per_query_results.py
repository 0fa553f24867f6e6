"""Outcomes on disk: what every single image or caption of an evaluation came to, in parquet."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_schemas.errors import ProtoRKDError
from data_schemas.files import write_atomic_by

OUTCOMES_NAME = "outcomes.parquet"
OUTCOMES_FOLDER = "outcomes"
RANK = "rank"

KEY_SCHEMA = pa.schema(
    [
        *(pa.field(name, pa.large_string(), nullable=False) for name in ("set", "task", "picture", "query")),
        *(pa.field(name, pa.large_string()) for name in ("label", "predicted")),
    ],
    metadata={"protorkd": "outcomes 1"},
)


@dataclass(frozen=True, eq=False)
class QueryResults:
    """What one task found on one set, a row a query: an image, or in text_to_image a caption.

    A metric called ``<set>/<task>/<measure>`` in a report is 100 times the mean of that measure here; the median rank
    is the median of the measure ``rank``.

    Args:
        set_name: of the set in reports: ``cifar10``.
        task: as metrics call it: zero_shot, knn, text_to_image, image_to_text, ...
        images: of each row the image as its set writes it, which makes two evaluations comparable.
        measures: a value a row under the measure's name: ``top1`` or ``recall@10`` from 0 (missed) to 1 (hit), in
            between for ties, and ``rank`` from 1.
        queries: of each row what is asked about the image where it has several rows, such as the caption; empty
            without.
        labels: of each row the right class; empty without.
        predicted: of each row the class that was answered; empty without.

    Raises:
        ValueError: a column has another number of rows than ``images``, a value is not finite, there is no row or no
            measure, or a measure has the name of another column.

    Shapes:
        measures: (rows,) each, float64.
    """

    set_name: str
    task: str
    images: Sequence[str]
    measures: Mapping[str, NDArray[np.float64]]
    queries: Sequence[str] = ()
    labels: Sequence[str] = ()
    predicted: Sequence[str] = ()

    def __post_init__(self) -> None:
        if not self.images or not self.measures:
            raise ValueError(f"{self.name} must have rows and measures; got none.")
        texts = {"queries": self.queries, "labels": self.labels, "predicted": self.predicted}
        given = {name: column for name, column in texts.items() if len(column)} | dict(self.measures)
        for name, column in given.items():
            if len(column) != len(self.images):
                raise ValueError(f"{name} of {self.name} must have {len(self.images)} rows; got {len(column)}.")
        for name, values in self.measures.items():
            if name in KEY_SCHEMA.names:
                raise ValueError(f"A measure must not be called as one of {KEY_SCHEMA.names}; got {name}.")
            if not np.isfinite(values).all():
                raise ValueError(f"{name} of {self.name} must be finite; got {values[~np.isfinite(values)][0]}.")

    @property
    def name(self) -> str:
        """What all its metrics begin with: ``cifar10/zero_shot``."""
        return f"{self.set_name}/{self.task}"


def outcomes_folder(checkpoint: str) -> str:
    """Folder of a checkpoint's outcomes, relative to the evaluation's folder."""
    return f"{OUTCOMES_FOLDER}/{checkpoint}"


def write_outcomes(root: Path, outcomes: Sequence[QueryResults]) -> None:
    """Write the outcomes of a checkpoint's evaluation.

    Writes: a row a query, sets and tasks one after another: set, task, image, query ("" where an image has but
    one), label and predicted (null without), and float64 for every measure (null where a task has none of the name).

    Args:
        root: the folder; in an artifact of evaluate its `outcomes_folder`.
        outcomes: at most one of a set and a task.

    Raises:
        ProtoRKDError: the disk is full or the folder cannot be written.
        ValueError: a set has two outcomes of one task.
    """
    names = [found.name for found in outcomes]
    if len(set(names)) < len(names):
        raise ValueError(f"Every set and task must have one outcome; got {sorted(names)}.")
    measures = dict.fromkeys(name for found in outcomes for name in found.measures)
    columns = [pa.field(name, pa.float64()) for name in measures]
    schema = pa.schema([*KEY_SCHEMA, *columns], metadata=KEY_SCHEMA.metadata)
    table = pa.concat_tables([schema.empty_table(), *(_table(found, schema) for found in outcomes)])
    write_atomic_by(root / OUTCOMES_NAME, lambda partial: pq.write_table(table, partial, write_page_checksum=True))


def read_outcomes(root: Path) -> list[QueryResults]:
    """Read the outcomes of a checkpoint's evaluation, as `write_outcomes` took them.

    Raises:
        ProtoRKDError: they are missing, damaged, of another kind, or a column has values for a part of a task alone.
    """
    path = root / OUTCOMES_NAME
    try:
        table = pq.read_table(path, page_checksum_verification=True)
        schema = table.schema
        names = schema.names
    except (OSError, ValueError, pa.ArrowException) as error:  # a damaged footer decodes to anything
        raise ProtoRKDError(f"{path} must be a whole parquet file; {error}. Run evaluate again.") from error
    num_keys = len(KEY_SCHEMA)
    are_numbers = all(column.type == pa.float64() for column in list(schema)[num_keys:])
    if list(schema)[:num_keys] != list(KEY_SCHEMA) or not are_numbers or schema.metadata != KEY_SCHEMA.metadata:
        raise ProtoRKDError(
            f"{path} must have the columns {KEY_SCHEMA.names} and measures of float64, as version 1; got {names}."
        )
    rows: dict[tuple[str, str], list[int]] = {}
    for row, key in enumerate(zip(table["set"].to_pylist(), table["task"].to_pylist(), strict=True)):
        rows.setdefault(key, []).append(row)
    try:
        return [_outcomes(*key, table.take(taken)) for key, taken in rows.items()]
    except ValueError as error:
        raise ProtoRKDError(f"{path} must hold an evaluation's outcomes; {error} Run evaluate again.") from error


def _table(found: QueryResults, schema: pa.Schema) -> pa.Table:
    num_rows = len(found.images)
    columns: dict[str, Sequence[str] | NDArray[np.float64]] = {
        "set": [found.set_name] * num_rows,
        "task": [found.task] * num_rows,
        "picture": [_printable(image) for image in found.images],
        "query": found.queries or [""] * num_rows,
        "label": [_printable(label) for label in found.labels],
        "predicted": [_printable(label) for label in found.predicted],
        **found.measures,
    }
    arrays = [
        pa.array(columns[column.name], column.type)
        if len(columns.get(column.name, ()))
        else pa.nulls(num_rows, column.type)
        for column in schema
    ]
    return pa.table(arrays, schema=schema)


def _printable(name: str) -> str:
    """Write the bytes of a file's name that are no UTF-8 as parquet can hold them."""
    return name.encode(errors="backslashreplace").decode()


def _outcomes(set_name: str, task: str, table: pa.Table) -> QueryResults:
    for name in table.column_names:
        if 0 < table[name].null_count < table.num_rows:
            raise ValueError(f"{name} of {set_name}/{task} must be given in every row or in none.")
    given = {name: table[name] for name in table.column_names if not table[name].null_count}
    queries = given["query"].to_pylist()
    return QueryResults(
        set_name=set_name,
        task=task,
        images=given["picture"].to_pylist(),
        queries=queries if any(queries) else (),
        labels=given["label"].to_pylist() if "label" in given else (),
        predicted=given["predicted"].to_pylist() if "predicted" in given else (),
        measures={name: given[name].to_numpy() for name in given if name not in KEY_SCHEMA.names},
    )
