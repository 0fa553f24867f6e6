from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import safetensors.numpy

from data_schemas.errors import ProtoRKDError
from data_schemas.files import write_json
from data_schemas.prototypes import (
    ASSIGNMENT_NAME,
    CENTROIDS_NAME,
    REPORT_NAME,
    Prototypes,
    read_report,
    write_report,
)

REPORT = dict.fromkeys(("dim", "num_captions", "num_prototypes", "sizes", "mean_cosine", "examples"), 0)


@pytest.fixture
def prototypes() -> Prototypes:
    return Prototypes(
        centroids=np.eye(3, 4, dtype=np.float32),
        assignment=np.array([2, 0, -1, 2, 2], np.int32),
        cosines=np.array([0.5, 1, 0, 0.25, -0.125], np.float32),
    )


def save_centroids(root: Path, values: np.ndarray) -> None:
    (root / CENTROIDS_NAME).write_bytes(safetensors.numpy.save({"centroids": values}))


def test_prototypes__come_back_as_written(prototypes: Prototypes, tmp_path: Path) -> None:
    prototypes.write(tmp_path)
    found = Prototypes.read(tmp_path)
    for name in ("centroids", "assignment", "cosines"):
        np.testing.assert_array_equal(getattr(found, name), getattr(prototypes, name), strict=True)


def test_prototypes__are_written_with_equal_bytes(prototypes: Prototypes, tmp_path: Path) -> None:
    prototypes.write(tmp_path / "a")
    prototypes.write(tmp_path / "b")
    for name in (CENTROIDS_NAME, ASSIGNMENT_NAME):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_prototypes__are_readable_without_this_project(prototypes: Prototypes, tmp_path: Path) -> None:
    prototypes.write(tmp_path)
    [(name, centroids)] = safetensors.numpy.load_file(tmp_path / CENTROIDS_NAME).items()
    assert (name, centroids.shape) == ("centroids", (3, 4))
    table = pq.read_table(tmp_path / ASSIGNMENT_NAME)
    assert table.to_pylist()[2:4] == [
        {"caption_row": 2, "prototype": -1, "cosine": 0.0},
        {"caption_row": 3, "prototype": 2, "cosine": 0.25},
    ]


def test_prototypes__count_their_captions_without_those_that_have_none(prototypes: Prototypes) -> None:
    assert prototypes.sizes.tolist() == [1, 0, 3]


@pytest.mark.parametrize("name", [CENTROIDS_NAME, ASSIGNMENT_NAME])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut"])
def test_prototypes__refuse_a_damaged_file(prototypes: Prototypes, tmp_path: Path, name: str, damage: str) -> None:
    prototypes.write(tmp_path)
    path = tmp_path / name
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"" if damage == "empty" else path.read_bytes()[:-5])
    with pytest.raises(ProtoRKDError, match=rf"{name} must .* Run prototypes again\."):
        Prototypes.read(tmp_path)


def test_prototypes__refuse_altered_assignments(prototypes: Prototypes, tmp_path: Path) -> None:
    prototypes.write(tmp_path)
    path = tmp_path / ASSIGNMENT_NAME
    data = bytearray(path.read_bytes())
    data[data.index(np.float32(-0.125).tobytes())] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ProtoRKDError, match="must be a whole parquet file"):
        Prototypes.read(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.eye(3, 4), "must hold float32 of shape .*; got float64"),
        (np.ones(4, np.float32), r"must hold float32 of shape .*; got float32 of shape \(4,\)"),
        (np.diag([1, 1, 2]).astype(np.float32), "must hold rows of unit length; got 2 in row 2"),
        (np.full((3, 4), np.nan, np.float32), "must hold rows of unit length; got nan in row 0"),
    ],
)
def test_prototypes__refuse_centroids_that_are_none(
    prototypes: Prototypes, tmp_path: Path, values: np.ndarray, message: str
) -> None:
    prototypes.write(tmp_path)
    save_centroids(tmp_path, values)
    with pytest.raises(ProtoRKDError, match=message):
        Prototypes.read(tmp_path)


def test_prototypes__refuse_a_file_without_centroids(prototypes: Prototypes, tmp_path: Path) -> None:
    prototypes.write(tmp_path)
    (tmp_path / CENTROIDS_NAME).write_bytes(safetensors.numpy.save({"weights": np.eye(2)}))
    with pytest.raises(ProtoRKDError, match="must hold the centroids"):
        Prototypes.read(tmp_path)


def test_prototypes__refuse_an_assignment_to_other_centroids(prototypes: Prototypes, tmp_path: Path) -> None:
    prototypes.write(tmp_path)
    save_centroids(tmp_path, np.eye(2, 4, dtype=np.float32))
    with pytest.raises(ProtoRKDError, match="must name prototypes from -1 to 1; got 2 in row 0"):
        Prototypes.read(tmp_path)


def test_prototypes__refuse_another_table(prototypes: Prototypes, tmp_path: Path) -> None:
    prototypes.write(tmp_path)
    pq.write_table(pa.table({"image": ["a.jpg"]}), tmp_path / ASSIGNMENT_NAME)
    with pytest.raises(ProtoRKDError, match=r"must have the columns .*'prototype'.*; got \['image'\]"):
        Prototypes.read(tmp_path)


def test_report__comes_back_as_written(tmp_path: Path) -> None:
    write_report(tmp_path, REPORT)
    assert read_report(tmp_path) == {"schema_version": 1, **REPORT}


def test_report__refuses_other_json(tmp_path: Path) -> None:
    write_json(tmp_path / REPORT_NAME, {"metrics": {}})
    with pytest.raises(ProtoRKDError, match="must be a report on prototypes; it lacks some of"):
        read_report(tmp_path)


def test_report__refuses_a_newer_schema(tmp_path: Path) -> None:
    write_json(tmp_path / REPORT_NAME, {**REPORT, "schema_version": 2})
    with pytest.raises(ProtoRKDError, match="schema version 1 or older"):
        read_report(tmp_path)
