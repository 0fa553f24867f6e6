"""Neighbours on disk: whole, in order, readable by others, refused where they are not as they were written."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from data_schemas.errors import ProtoRKDError
from data_schemas.neighbours import FOLDER_NAME, Neighbours, shard_ranges


def write_all(root: Path, *, num: int = 5, shard_rows: int = 2) -> Neighbours:
    """Write neighbours of captions, three each, in files of a few."""
    generator = np.random.default_rng(0)
    made = Neighbours(
        rows=generator.integers(-1, num, (num, 3)), cosines=generator.uniform(-1, 1, (num, 3)).astype(np.float32)
    )
    for path, start, stop in shard_ranges(num, shard_rows=shard_rows):
        part = Neighbours(rows=made.rows[start:stop], cosines=made.cosines[start:stop])
        part.write(root / path, start=start, num_captions=num)
    return made


@pytest.mark.parametrize(("num", "shard_rows", "files"), [(5, 2, 3), (5, 9, 1), (4, 2, 2), (0, 2, 1)])
def test_neighbours__come_back_as_written(num: int, shard_rows: int, files: int, tmp_path: Path) -> None:
    made = write_all(tmp_path, num=num, shard_rows=shard_rows)
    found = Neighbours.read(tmp_path)
    np.testing.assert_array_equal(found.rows, made.rows, strict=True)
    np.testing.assert_array_equal(found.cosines, made.cosines, strict=True)
    assert found.num_neighbours == 3
    assert len(list((tmp_path / FOLDER_NAME).iterdir())) == files


def test_neighbours__are_written_with_equal_bytes(tmp_path: Path) -> None:
    write_all(tmp_path / "a")
    write_all(tmp_path / "b")
    for path in (tmp_path / "a").rglob("*.parquet"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()


def test_neighbours__are_readable_without_this_project(tmp_path: Path) -> None:
    made = write_all(tmp_path)
    [row] = pq.read_table(tmp_path / FOLDER_NAME / "000002.parquet").to_pylist()
    assert row == {"caption_row": 4, "neighbour_rows": made.rows[4].tolist(), "cosines": made.cosines[4].tolist()}


@pytest.mark.parametrize("number", [0, 1, 2])
def test_neighbours__must_be_of_every_caption(number: int, tmp_path: Path) -> None:
    write_all(tmp_path)
    (tmp_path / FOLDER_NAME / f"00000{number}.parquet").unlink()
    with pytest.raises(ProtoRKDError, match="must hold the neighbours of every caption in order; it has those of"):
        Neighbours.read(tmp_path)


def test_neighbours__must_be_there(tmp_path: Path) -> None:
    with pytest.raises(ProtoRKDError, match="it has those of 0"):
        Neighbours.read(tmp_path)


def test_neighbours__with_other_bytes_are_refused(tmp_path: Path) -> None:
    write_all(tmp_path)
    path = tmp_path / FOLDER_NAME / "000001.parquet"
    data = bytearray(path.read_bytes())
    data[40] ^= 0xFF
    path.write_bytes(data)
    with pytest.raises(ProtoRKDError, match="must be a whole parquet file"):
        Neighbours.read(tmp_path)


def test_neighbours__of_another_kind_are_refused(tmp_path: Path) -> None:
    write_all(tmp_path, num=1)
    pq.write_table(
        pq.read_table(tmp_path / FOLDER_NAME / "000000.parquet").drop(["cosines"]),
        tmp_path / FOLDER_NAME / "000000.parquet",
    )
    with pytest.raises(ProtoRKDError, match="must have the columns"):
        Neighbours.read(tmp_path)
