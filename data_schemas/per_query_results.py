"""Outcomes on disk, in parquet: the result of every single image or caption of an evaluation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_schemas.errors import ProtoRKDError, in_one_line
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
    """The results of one task on one set, a row a query: an image, or in text_to_image a caption.

    A metric called ``<set>/<task>/<measure>`` in a report is 100 times the mean of that measure here; the median rank
    is the median of the measure ``rank``.

    Args:
        set_name: Name of the set in reports: ``cifar10``.
        task: Name of the task in metrics: zero_shot, knn, text_to_image, image_to_text, ...
        images: Image of each row, as its set writes it; the same text in two evaluations makes their rows comparable.
        measures: One value a row, by the measure's name: ``top1`` or ``recall@10`` from 0 (missed) to 1 (hit), in
            between for ties, and ``rank`` from 1.
        queries: What each row asks about its image, such as the caption, where an image has several rows; otherwise
            empty.
        labels: The right class of each row; empty without classes.
        predicted: The predicted class of each row; empty without classes.

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
        columns = {name: column for name, column in texts.items() if len(column)} | dict(self.measures)
        for name, column in columns.items():
            if len(column) != len(self.images):
                raise ValueError(f"{name} of {self.name} must have {len(self.images)} rows; got {len(column)}.")
        for name, values in self.measures.items():
            if name in KEY_SCHEMA.names:
                raise ValueError(f"A measure must not be called as one of {KEY_SCHEMA.names}; got {name}.")
            if not np.isfinite(values).all():
                raise ValueError(f"{name} of {self.name} must be finite; got {values[~np.isfinite(values)][0]}.")

    @property
    def name(self) -> str:
        """What the names of all its metrics begin with: ``cifar10/zero_shot``."""
        return f"{self.set_name}/{self.task}"


def outcomes_folder(checkpoint: str) -> str:
    """Return the folder of a checkpoint's outcomes, relative to the evaluation's folder."""
    return f"{OUTCOMES_FOLDER}/{checkpoint}"


def write_outcomes(root: Path, outcomes: Sequence[QueryResults]) -> None:
    """Write the outcomes of a checkpoint's evaluation.

    Writes: a row a query, sets and tasks one after another: set, task, image, query ("" where an image has but
    one), label and predicted (null without), and float64 for every measure (null where a task has none of the name).

    Args:
        root: Folder to write to; in an artifact of evaluate its `outcomes_folder`.
        outcomes: Results to write, at most one for each set and task.

    Raises:
        ProtoRKDError: the disk is full or the folder cannot be written.
        ValueError: a set has two outcomes of one task.
    """
    names = [results.name for results in outcomes]
    if len(set(names)) < len(names):
        raise ValueError(f"Every set and task must have one outcome; got {sorted(names)}.")
    measures = dict.fromkeys(name for results in outcomes for name in results.measures)
    columns = [pa.field(name, pa.float64()) for name in measures]
    schema = pa.schema([*KEY_SCHEMA, *columns], metadata=KEY_SCHEMA.metadata)
    table = pa.concat_tables([schema.empty_table(), *(_table(results, schema) for results in outcomes)])
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
        raise ProtoRKDError(
            f"{path} must be a whole parquet file; {in_one_line(error)}. Run evaluate again."
        ) from error
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


def _table(results: QueryResults, schema: pa.Schema) -> pa.Table:
    num_rows = len(results.images)
    columns: dict[str, Sequence[str] | NDArray[np.float64]] = {
        "set": [results.set_name] * num_rows,
        "task": [results.task] * num_rows,
        "picture": [_printable(image) for image in results.images],
        "query": results.queries or [""] * num_rows,
        "label": [_printable(label) for label in results.labels],
        "predicted": [_printable(label) for label in results.predicted],
        **results.measures,
    }
    arrays = [
        pa.array(columns[column.name], column.type)
        if len(columns.get(column.name, ()))
        else pa.nulls(num_rows, column.type)
        for column in schema
    ]
    return pa.table(arrays, schema=schema)


def _printable(name: str) -> str:
    """Replace the bytes of a file's name that are not UTF-8 by escapes, which parquet can hold."""
    return name.encode(errors="backslashreplace").decode()


def _outcomes(set_name: str, task: str, table: pa.Table) -> QueryResults:
    for name in table.column_names:
        if 0 < table[name].null_count < table.num_rows:
            raise ValueError(f"{name} of {set_name}/{task} must be given in every row or in none.")
    columns = {name: table[name] for name in table.column_names if not table[name].null_count}
    queries = columns["query"].to_pylist()
    return QueryResults(
        set_name=set_name,
        task=task,
        images=columns["picture"].to_pylist(),
        queries=queries if any(queries) else (),
        labels=columns["label"].to_pylist() if "label" in columns else (),
        predicted=columns["predicted"].to_pylist() if "predicted" in columns else (),
        measures={name: columns[name].to_numpy() for name in columns if name not in KEY_SCHEMA.names},
    )
