"""Rows that are read where they are indexed: as NumPy indexes them, and proven by record and checksum."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from workbench import Cli, counted_captions, make_manifest

from data_schemas.embedding_array import EmbeddingArray
from data_schemas.errors import ProtoRKDError
from pipeline.store.store import Artifact, Store
from stages.components.embeddings.embedding_rows import EmbeddingRows


@pytest.fixture
def artifact(tmp_path: Path, word_vectors: Path, run_cli: Cli) -> Artifact:
    """600 captions, in three shards."""
    captions = counted_captions(600)
    manifest = make_manifest(tmp_path / "pairs.tsv", [f"{number}.jpg" for number in range(600)], captions)
    run_cli("encode-teacher", "--manifest", manifest, "--teacher", word_vectors, "--shard-rows", 256)
    [made] = Store(run_cli.store).artifacts("encode-teacher")
    return made


@pytest.fixture
def rows(artifact: Artifact) -> EmbeddingRows:
    return EmbeddingRows(artifact)


def shard_of(artifact: Artifact, number: int) -> Path:
    return artifact.path / f"embeddings.zarr/c/{number}/0"


@pytest.mark.parametrize(
    "key",
    [
        0, -1, np.int64(599), slice(None), slice(10, 20), slice(500, 700), slice(20, 10), slice(None, None, -100), ...,
        [5, 2, 599, 5], [], np.array([-1, 0]), np.arange(600) % 7 == 0,
        (3, 4), (slice(0, 9), slice(2, 5)), ([5, 300], 2), (slice(250, 260), [1, 0]), (..., 0), (7, ...),
    ],
)  # fmt: skip
def test_rows__are_indexed_as_numpy_does(artifact: Artifact, rows: EmbeddingRows, key: object) -> None:
    whole = EmbeddingArray.open(artifact.path).read(0, 600)
    expected = whole[:0] if isinstance(key, list) and not key else whole[key]  # type: ignore[index]
    found = rows[key]
    assert (found.dtype, found.shape) == (expected.dtype, expected.shape)
    np.testing.assert_array_equal(found, expected)
    assert (rows.shape, rows.dtype, rows.ndim, len(rows)) == (whole.shape, whole.dtype, 2, 600)
    np.testing.assert_array_equal(np.asarray(rows, np.float32), whole.astype(np.float32))


@pytest.mark.parametrize("key", [600, -601, [0, 600], ([0, 1], [0, 1]), "a", None, 1.5])
def test_rows__that_are_not_there_are_refused(rows: EmbeddingRows, key: object) -> None:
    with pytest.raises((IndexError, TypeError)):
        rows[key]


def test_rows__of_a_shard_with_other_bytes_are_refused_and_others_are_read(
    artifact: Artifact, rows: EmbeddingRows
) -> None:
    rows[300]
    shutil.copyfile(shard_of(artifact, 0), shard_of(artifact, 1))  # whole by its own checksums
    assert rows[0].any()
    with pytest.raises(ProtoRKDError, match=r"c/1/0 must be as it was written"):
        rows[300]


@pytest.mark.parametrize("read_before", [False, True])
def test_rows__of_a_shard_that_is_gone_are_no_fill_values(
    artifact: Artifact, rows: EmbeddingRows, read_before: bool
) -> None:
    if read_before:
        rows[:]
    shard_of(artifact, 2).unlink()
    with pytest.raises(ProtoRKDError, match=r"c/2/0 must be as it was written; it is missing"):
        rows[:]
    assert rows[:512].any()


def test_rows__that_go_while_they_are_read_are_refused(
    artifact: Artifact, rows: EmbeddingRows, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = EmbeddingArray.take

    def after_removal(self: EmbeddingArray, numbers: np.ndarray) -> np.ndarray:
        values = real(self, numbers)
        shard_of(artifact, 0).unlink()
        return values

    monkeypatch.setattr(EmbeddingArray, "take", after_removal)
    with pytest.raises(ProtoRKDError, match="must stay as it is while rows of it are read"):
        rows[:3]


def test_rows__prove_a_shard_once(rows: EmbeddingRows, monkeypatch: pytest.MonkeyPatch) -> None:
    real, proven = Artifact.require_whole, []
    monkeypatch.setattr(
        Artifact, "require_whole", lambda self, paths, **read: proven.append(paths) or real(self, paths, **read)
    )
    rows[0], rows[1:9], rows[:300], rows[[0, 299]]
    assert proven == [("embeddings.zarr/c/0/0",), ("embeddings.zarr/c/1/0",)]
