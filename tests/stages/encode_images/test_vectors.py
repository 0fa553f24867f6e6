"""Vectors that another tool computed become the features of images, in any order and form, or are refused by name."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr
from workbench import Cli, Pairs

from data_schemas.embedding_array import FEATURE_KIND, EmbeddingArray
from data_schemas.files import hash_file
from data_schemas.images.embedded_images import read_images
from data_schemas.images.image_features import FeaturesConfig
from data_schemas.pair_index import read_rejected

NUM, DIM = 24, 6


@pytest.fixture
def pairs(pairs_folder: Callable[[int, int], Pairs]) -> Pairs:
    return pairs_folder(NUM, 20)


@pytest.fixture
def vectors() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(NUM, DIM)).astype(np.float32)


def write(path: Path, keys: Sequence[Any], vectors: Any, *, key: str = "filepath", kind: Any = None) -> Path:
    path.parent.mkdir(exist_ok=True)
    column = pa.array([None if row is None else list(row) for row in vectors], kind or pa.list_(pa.float32()))
    pq.write_table(pa.table({key: keys, "embedding": column}), path)
    return path


def read(outcome: dict[str, Any]) -> np.ndarray:
    features = EmbeddingArray.open(Path(outcome["path"]), kind=FEATURE_KIND)
    return features.read(0, features.rows)


def take(pairs: Pairs, vectors: object, *more: object) -> tuple[object, ...]:
    return ("encode-images", "--manifest", pairs.manifest, "--vectors", vectors, "--feature-dtype", "float32", *more)


@pytest.mark.parametrize(
    "kind",
    [pa.list_(pa.float32()), pa.large_list(pa.float64()), pa.list_(pa.float16(), DIM), pa.list_(pa.float32(), DIM)],
)
def test_vectors__come_from_parts_in_any_order(
    pairs: Pairs, vectors: np.ndarray, run_cli: Cli, tmp_path: Path, kind: Any
) -> None:
    order = np.random.default_rng(1).permutation(NUM)
    names = [pairs.images[number] for number in order]
    exact = vectors.astype(np.float16) if kind.value_type == pa.float16() else vectors
    for part, chosen in enumerate((slice(0, 10), slice(10, NUM))):
        write(tmp_path / f"parts/train-{part}.parquet", names[chosen], exact[order][chosen], kind=kind)
    shutil.rmtree(pairs.root / "images")
    outcome = run_cli(*take(pairs, tmp_path / "parts/train-*.parquet"))
    np.testing.assert_array_equal(read(outcome), exact.astype(np.float32))
    images = read_images(Path(outcome["path"]))
    assert tuple(images["image"].to_pylist()) == pairs.images
    assert images["sha256"].null_count == NUM
    config = FeaturesConfig.read(Path(outcome["path"]))
    assert (config.backbone, config.backbone_digest, config.precision, config.views) == (None, "", "", 1)
    shutil.copytree(tmp_path / "parts", tmp_path / "elsewhere")
    again = run_cli(*take(pairs, tmp_path / "elsewhere"))
    assert (again["status"], again["digest"]) == ("unchanged", outcome["digest"])
    assert run_cli.run("verify").exit_code == 0


def test_vectors__come_from_arrays_beside_tables(
    pairs: Pairs, vectors: np.ndarray, run_cli: Cli, tmp_path: Path
) -> None:
    halves = ((0, 10), (10, NUM))
    suffixes = ("tsv", "csv")
    for (start, stop), suffix in zip(halves, suffixes, strict=True):
        np.save(tmp_path / f"{suffix}.npy", vectors[start:stop])
        separator = {"tsv": "\t", "csv": ","}[suffix]
        lines = [separator.join(("path", "n")), *(f"{image}{separator}1" for image in pairs.images[start:stop])]
        (tmp_path / f"{suffix}.{suffix}").write_text("\n".join(lines) + "\n")
    folder = tmp_path / "arrays"
    folder.mkdir()
    for suffix in suffixes:
        for ending in ("npy", suffix):
            shutil.move(tmp_path / f"{suffix}.{ending}", folder)
    np.testing.assert_array_equal(read(run_cli(*take(pairs, folder))), vectors)
    stored = zarr.create_array(tmp_path / "v.zarr", shape=vectors.shape, dtype="float32", chunks=(7, DIM))
    stored[:] = vectors
    (tmp_path / "v.txt").write_text("\n".join(pairs.images) + "\n")
    np.testing.assert_array_equal(read(run_cli(*take(pairs, tmp_path / "v.zarr"))), vectors)


def test_vectors__come_from_an_artifact(pairs: Pairs, vectors: np.ndarray, run_cli: Cli, tmp_path: Path) -> None:
    first = run_cli(*take(pairs, write(tmp_path / "v.parquet", pairs.images, vectors)))
    again = run_cli(*take(pairs, first["path"]))
    assert again["digest"] == first["digest"]


def test_vectors__are_found_by_the_digest_of_files(
    pairs: Pairs, vectors: np.ndarray, run_cli: Cli, tmp_path: Path
) -> None:
    digests = [hash_file(pairs.root / image) for image in pairs.images]
    shutil.copy(pairs.root / pairs.images[2], pairs.root / "images/copy.jpg")
    path = write(tmp_path / "v.parquet", digests, vectors, key="sha256")
    words = ("encode-images", "--images", pairs.root, "--vectors", path, "--feature-dtype", "float32")
    outcome = run_cli(*words)
    np.testing.assert_array_equal(read(outcome), vectors)
    assert (outcome["counts"]["images"], outcome["counts"]["distinct_images"]) == (NUM + 1, NUM)
    assert "--image-identity must be content" in run_cli.fails(*words, "--image-identity", "path")


def test_vectors__that_are_missing_are_counted_and_listed(
    pairs: Pairs, vectors: np.ndarray, run_cli: Cli, tmp_path: Path
) -> None:
    rows: list[Any] = list(vectors)
    rows[3], rows[4] = None, np.zeros(DIM)
    keys = [*pairs.images[:5], *pairs.images[6:], "images/other.jpg"]
    path = write(tmp_path / "v.parquet", keys, [*rows[:5], *rows[6:], vectors[0]])
    message = run_cli.fails(*take(pairs, path))
    assert "(--max-bad-fraction); got 3 of 24 without one" in message
    assert "images/003.jpg: its vector is null" in message
    outcome = run_cli(*take(pairs, path, "--max-bad-fraction", 0.2))
    reasons = {entry.value: entry.reason for entry in read_rejected(Path(outcome["path"]))}
    assert reasons == {
        "images/003.jpg": "its vector is null",
        "images/004.jpg": "its vector is all zeros",
        "images/005.jpg": "no vector has its key",
    }
    assert outcome["counts"]["unused_vectors"] == 1
    assert (outcome["counts"]["images"], outcome["counts"]["rejected_images"]) == (NUM - 3, 3)
    np.testing.assert_array_equal(np.flatnonzero(~read(outcome).any(axis=1)), [3, 4, 5])
    assert read_images(Path(outcome["path"])).num_rows == NUM - 3
    assert run_cli.run("verify").exit_code == 0


def test_vectors__of_one_image_must_agree(pairs: Pairs, vectors: np.ndarray, run_cli: Cli, tmp_path: Path) -> None:
    keys = [*pairs.images, pairs.images[1], pairs.images[1]]
    near = write(tmp_path / "near.parquet", keys, [*vectors, vectors[1] * 1.001, vectors[1]])
    outcome = run_cli(*take(pairs, near))
    np.testing.assert_array_equal(read(outcome), vectors)
    assert outcome["counts"]["repeated_vectors"] == 2
    write(tmp_path / "far/0.parquet", pairs.images, vectors)
    write(tmp_path / "far/1.parquet", [pairs.images[0], pairs.images[1]], [vectors[0], vectors[2]])
    message = run_cli.fails(*take(pairs, tmp_path / "far"))
    assert "two that differ for 'images/001.jpg'" in message
    assert "row 1 of" in message
    assert "far/0.parquet and row 1 of" in message


BAD: list[tuple[Callable[[np.ndarray], Any], str]] = [
    (lambda rows: [*rows[:-1], [np.nan] * DIM], "must hold finite numbers; row 23 ('images/023.jpg') has NaN"),
    (lambda rows: [*rows[:-1], rows[0][:4]], "must hold vectors of one width, without nulls in them; row 23 has 4"),
    (lambda rows: [*rows[:-1], [None] * DIM], "must hold vectors without nulls in them"),
]


@pytest.mark.parametrize(("spoil", "message"), BAD)
def test_vectors__that_are_bad_are_named(
    pairs: Pairs, vectors: np.ndarray, run_cli: Cli, tmp_path: Path, spoil: Any, message: str
) -> None:
    assert message in run_cli.fails(*take(pairs, write(tmp_path / "v.parquet", pairs.images, spoil(vectors))))


def test_vectors__that_overflow_are_named(pairs: Pairs, vectors: np.ndarray, run_cli: Cli, tmp_path: Path) -> None:
    vectors[7] = 1e6
    path = write(tmp_path / "v.parquet", pairs.images, vectors)
    message = run_cli.fails("encode-images", "--manifest", pairs.manifest, "--vectors", path)
    assert (
        "--feature-dtype must hold the vector's numbers; float16 cannot hold 1000000 (image 'images/007.jpg')"
        in message
    )


def test_vectors__must_be_of_one_width_in_all_parts(
    pairs: Pairs, vectors: np.ndarray, run_cli: Cli, tmp_path: Path
) -> None:
    write(tmp_path / "parts/0.parquet", pairs.images[:9], vectors[:9])
    write(tmp_path / "parts/1.parquet", pairs.images[9:], vectors[9:, :4])
    assert "--vectors must be of one width; got 4 in" in run_cli.fails(*take(pairs, tmp_path / "parts"))


def test_vectors__whose_keys_do_not_fit_are_shown(
    pairs: Pairs, vectors: np.ndarray, run_cli: Cli, tmp_path: Path
) -> None:
    path = write(tmp_path / "v.parquet", [f"/data/{name}" for name in pairs.images], vectors)
    message = run_cli.fails(*take(pairs, path))
    assert "its 'filepath' begins with '/data/images/000.jpg', where 'images/000.jpg' is wanted" in message


def test_vectors__that_are_all_zeros_are_refused(pairs: Pairs, run_cli: Cli, tmp_path: Path) -> None:
    path = write(tmp_path / "v.parquet", pairs.images, np.zeros((NUM, DIM)))
    assert "that fit are null or all zeros" in run_cli.fails(*take(pairs, path))
    path = write(tmp_path / "n.parquet", pairs.images, [None] * NUM)
    assert "that fit are null or all zeros" in run_cli.fails(*take(pairs, path))


def test_vectors__columns_can_be_named(pairs: Pairs, vectors: np.ndarray, run_cli: Cli, tmp_path: Path) -> None:
    path = tmp_path / "v.parquet"
    rows = pa.array(list(map(list, vectors)), pa.list_(pa.float32()))
    pq.write_table(pa.table({"name": pairs.images, "a": rows, "b": rows}), path)
    assert "none of them filepath or image" in run_cli.fails(*take(pairs, path))
    words = take(pairs, path, "--vector-key", "name")
    assert "must have a column of lists of numbers (--vector-column); got 2 such columns" in run_cli.fails(*words)
    assert "got 'c'" in run_cli.fails(*words, "--vector-column", "c")
    np.testing.assert_array_equal(read(run_cli(*words, "--vector-column", "b")), vectors)


def test_vectors__that_are_no_files_are_refused(pairs: Pairs, run_cli: Cli, tmp_path: Path) -> None:
    assert "which is not there" in run_cli.fails(*take(pairs, tmp_path / "absent"))
    assert "got s3://bucket/vectors" in run_cli.fails(*take(pairs, "s3://bucket/vectors"))
    (tmp_path / "empty").mkdir()
    assert "which has none" in run_cli.fails(*take(pairs, tmp_path / "empty"))
    (tmp_path / "cut.parquet").write_bytes(b"PAR1")
    assert "must be a whole parquet file" in run_cli.fails(*take(pairs, tmp_path / "cut.parquet"))
    os.mkfifo(tmp_path / "empty/pipe.parquet")
    assert "must be a readable file" in run_cli.fails(*take(pairs, tmp_path / "empty"))
    np.save(tmp_path / "alone.npy", np.ones((NUM, DIM)))
    assert "must have a table beside it" in run_cli.fails(*take(pairs, tmp_path / "alone.npy"))
    (tmp_path / "alone.txt").write_text("one.jpg\n")
    assert "must have a key for each vector; got 1 keys for the 24" in run_cli.fails(
        *take(pairs, tmp_path / "alone.npy")
    )
    assert "--vectors must go with --manifest" in run_cli.fails(
        "encode-images", "--images", pairs.root, "--vectors", tmp_path / "alone.npy"
    )


def test_vectors__go_on_after_a_kill(
    pairs: Pairs, vectors: np.ndarray, run_cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "v.parquet", pairs.images, vectors)

    def fail(*_: object) -> None:
        raise RuntimeError("power cut")

    with monkeypatch.context() as patch:
        patch.setattr("stages.encode_images.vectors.write_rejected", fail)
        with pytest.raises(RuntimeError, match="power cut"):
            run_cli(*take(pairs, path))
    np.testing.assert_array_equal(read(run_cli(*take(pairs, path))), vectors)
