from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from data_schemas.errors import ProtoRKDError
from data_schemas.per_query_results import KEY_SCHEMA, OUTCOMES_NAME, QueryResults, read_outcomes, write_outcomes

CLASSIFIED: dict[str, Any] = {
    "set_name": "pets",
    "task": "zero_shot",
    "images": ["cat/1.jpg", "dog/ü.jpg"],
    "measures": {"top1": np.array([1.0, 0.0]), "top5": np.array([1.0, 0.5])},
    "labels": ["cat", "dog"],
    "predicted": ["cat", "cat"],
}
RETRIEVED: dict[str, Any] = {
    "set_name": "pairs",
    "task": "text_to_image",
    "images": ["b.jpg", "a.jpg", "b.jpg"],
    "queries": ["two", "", "two"],
    "measures": {"rank": np.array([3.0, 1.5, 3.0])},
}


def contents(outcomes: QueryResults) -> list[Any]:
    """Return all columns, as lists."""
    measures = {name: values.tolist() for name, values in outcomes.measures.items()}
    return [
        outcomes.name,
        *map(list, (outcomes.images, outcomes.queries, outcomes.labels, outcomes.predicted)),
        measures,
    ]


def test_outcomes__come_back_as_written(tmp_path: Path) -> None:
    written = [
        QueryResults(**CLASSIFIED),
        QueryResults(**RETRIEVED),
        QueryResults(**{**CLASSIFIED, "task": "knn", "labels": ()}),
    ]
    write_outcomes(tmp_path, written)
    assert [contents(found) for found in read_outcomes(tmp_path)] == [contents(found) for found in written]


def test_outcomes__come_back_as_none_where_none_were_written(tmp_path: Path) -> None:
    write_outcomes(tmp_path, [])
    assert read_outcomes(tmp_path) == []


def test_outcomes__are_readable_by_plain_pyarrow(tmp_path: Path) -> None:
    write_outcomes(tmp_path, [QueryResults(**CLASSIFIED), QueryResults(**RETRIEVED)])
    rows = pq.read_table(tmp_path / OUTCOMES_NAME).to_pylist()
    assert rows[1] == {
        "set": "pets",
        "task": "zero_shot",
        "picture": "dog/ü.jpg",
        "query": "",
        "label": "dog",
        "predicted": "cat",
        "top1": 0.0,
        "top5": 0.5,
        "rank": None,
    }
    assert (rows[2]["label"], rows[2]["rank"], rows[2]["top1"]) == (None, 3.0, None)


def test_outcomes__are_the_same_bytes_each_time(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_outcomes(tmp_path / name, [QueryResults(**CLASSIFIED), QueryResults(**RETRIEVED)])
    assert (tmp_path / "one" / OUTCOMES_NAME).read_bytes() == (tmp_path / "two" / OUTCOMES_NAME).read_bytes()


def test_outcomes__spell_out_bytes_of_a_name_that_are_no_utf8(tmp_path: Path) -> None:
    name = b"cat/\xff.jpg".decode(errors="surrogateescape")
    write_outcomes(tmp_path, [QueryResults(**{**CLASSIFIED, "images": [name, "b.jpg"]})])
    assert read_outcomes(tmp_path)[0].images == [r"cat/\udcff.jpg", "b.jpg"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"labels": ["cat"]}, r"labels of pets/zero_shot must have 2 rows; got 1\."),
        ({"measures": {"top1": np.ones(3)}}, r"top1 of pets/zero_shot must have 2 rows; got 3\."),
        ({"measures": {"top1": np.array([1, np.nan])}}, r"top1 of pets/zero_shot must be finite; got nan\."),
        ({"measures": {"label": np.ones(2)}}, r"A measure must not be called .* got label\."),
        ({"measures": {}}, "must have rows and measures"),
        ({"images": []}, "must have rows and measures"),
    ],
)
def test_outcomes__refuse_columns_that_do_not_fit(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        QueryResults(**{**CLASSIFIED, **change})


def test_write_outcomes__refuses_two_of_one_set_and_task(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="must have one outcome"):
        write_outcomes(tmp_path, [QueryResults(**CLASSIFIED), QueryResults(**CLASSIFIED)])


@pytest.mark.parametrize("size", [0, 4, 200, -1])
def test_read_outcomes__refuses_a_cut_file(tmp_path: Path, size: int) -> None:
    write_outcomes(tmp_path, [QueryResults(**CLASSIFIED)])
    path = tmp_path / OUTCOMES_NAME
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(ProtoRKDError, match=r"outcomes\.parquet must be a whole parquet file"):
        read_outcomes(tmp_path)


def test_read_outcomes__refuses_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(ProtoRKDError, match=r"outcomes\.parquet must be a whole parquet file"):
        read_outcomes(tmp_path)


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"picture": ["a.jpg"]}),
        KEY_SCHEMA.empty_table().replace_schema_metadata({"protorkd": "outcomes 2"}),
        KEY_SCHEMA.empty_table().append_column("top1", pa.array([], pa.int64())),
    ],
)
def test_read_outcomes__refuses_other_columns(tmp_path: Path, table: pa.Table) -> None:
    pq.write_table(table, tmp_path / OUTCOMES_NAME)
    with pytest.raises(ProtoRKDError, match=r"outcomes\.parquet must have the columns .*'predicted'"):
        read_outcomes(tmp_path)


def test_read_outcomes__refuses_a_column_that_is_given_in_part(tmp_path: Path) -> None:
    write_outcomes(tmp_path, [QueryResults(**CLASSIFIED)])
    table = pq.read_table(tmp_path / OUTCOMES_NAME)
    place = table.schema.get_field_index("label")
    pq.write_table(
        table.set_column(place, KEY_SCHEMA.field("label"), pa.array(["cat", None], pa.large_string())),
        tmp_path / OUTCOMES_NAME,
    )
    with pytest.raises(ProtoRKDError, match="label of pets/zero_shot must be given in every row or in none"):
        read_outcomes(tmp_path)
