import errno
import os

import numpy as np
import pytest
import zarr

from data_schemas import embedding_array as teacher_embeddings
from data_schemas.embedding_array import ARRAY_NAME, EmbeddingArray, Shard, are_finite
from data_schemas.errors import ProtoRKDError

ROWS, DIM, SHARD_ROWS = 600, 5, 512
VALUES = np.random.default_rng(0).normal(size=(ROWS, DIM))


def create(root, dtype="float16"):
    return EmbeddingArray.create(root, rows=ROWS, dim=DIM, dtype=dtype, shard_rows=SHARD_ROWS)


@pytest.fixture
def written(tmp_path):
    embeddings = create(tmp_path)
    for shard in embeddings.shards():
        embeddings.write(shard, VALUES[shard.start : shard.stop].astype("float16"))
    return embeddings


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_teacher_embeddings__has_one_row_a_caption_in_the_dtype_asked_for(tmp_path, dtype):
    embeddings = create(tmp_path, dtype)
    assert (embeddings.rows, embeddings.dim, embeddings.dtype) == (ROWS, DIM, np.dtype(dtype))
    for shard in embeddings.shards():
        embeddings.write(shard, VALUES[shard.start : shard.stop].astype(dtype))
    read = EmbeddingArray.open(tmp_path).read(500, 520)  # across two shards
    assert read.shape == (20, DIM)
    assert read.dtype == dtype
    assert np.array_equal(read, VALUES[500:520].astype(dtype))


def test_teacher_embeddings__is_readable_by_plain_zarr(tmp_path, written):
    array = zarr.open_array(tmp_path / ARRAY_NAME, mode="r")
    assert array.shape == (ROWS, DIM)
    assert array.dtype == "float16"
    assert np.array_equal(array[:], VALUES.astype("float16"))


def test_shards__cut_the_last_one_short(tmp_path, written):
    assert list(written.shards()) == [
        Shard(f"{ARRAY_NAME}/c/0/0", 0, 512),
        Shard(f"{ARRAY_NAME}/c/1/0", 512, 600),
    ]
    assert all((tmp_path / shard.path).is_file() for shard in written.shards())


def test_create__keeps_shard_files_that_lie_there(tmp_path, written):
    before = {shard.path: (tmp_path / shard.path).read_bytes() for shard in written.shards()}
    create(tmp_path)
    assert before == {shard.path: (tmp_path / shard.path).read_bytes() for shard in written.shards()}
    assert np.array_equal(EmbeddingArray.open(tmp_path).read(0, ROWS), VALUES.astype("float16"))


def test_create__writes_the_same_bytes_each_time(tmp_path):
    create(tmp_path / "a")
    create(tmp_path / "b")
    assert (tmp_path / "a" / ARRAY_NAME / "zarr.json").read_bytes() == (
        tmp_path / "b" / ARRAY_NAME / "zarr.json"
    ).read_bytes()


@pytest.mark.parametrize("damage", ["missing", "empty"])
def test_open__refuses_a_shard_that_is_missing_or_empty(tmp_path, written, damage):
    file = tmp_path / ARRAY_NAME / "c/1/0"
    file.unlink() if damage == "missing" else file.write_bytes(b"")
    with pytest.raises(ProtoRKDError, match=r"c/1/0 must hold rows 512 to 600; it is missing or empty"):
        EmbeddingArray.open(tmp_path)


def test_open__refuses_what_is_no_array(tmp_path):
    with pytest.raises(ProtoRKDError, match="must be a zarr array"):
        EmbeddingArray.open(tmp_path)


def test_open__refuses_an_array_of_another_kind(tmp_path):
    zarr.create_array(tmp_path / ARRAY_NAME, shape=(2, 2), dtype="float16")
    with pytest.raises(ProtoRKDError, match="must hold protorkd teacher embeddings"):
        EmbeddingArray.open(tmp_path)


@pytest.mark.parametrize("position", [0, 2563, -1, -10, -30])  # numbers, a chunk's checksum, the shard's index
def test_read__refuses_altered_bytes(tmp_path, written, position):
    file = tmp_path / ARRAY_NAME / "c/0/0"
    damaged = bytearray(file.read_bytes())
    damaged[position] ^= 0xFF
    file.write_bytes(damaged)
    with pytest.raises(ProtoRKDError, match=r"must be as it was written; rows 0 to 512"):
        EmbeddingArray.open(tmp_path).read(0, 512)


@pytest.mark.parametrize("size", [1, 1000, -1])
def test_read__refuses_a_cut_shard(tmp_path, written, size):
    file = tmp_path / ARRAY_NAME / "c/0/0"
    file.write_bytes(file.read_bytes()[:size])
    with pytest.raises(ProtoRKDError, match="must be as it was written"):
        EmbeddingArray.open(tmp_path).read(0, 512)


def test_write__says_that_the_disk_is_full(tmp_path, monkeypatch):
    embeddings = create(tmp_path)

    def fail(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(teacher_embeddings, "fsync", fail)
    shard = next(embeddings.shards())
    with pytest.raises(ProtoRKDError, match="Free some space"):
        embeddings.write(shard, VALUES[:512].astype("float16"))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_decode__gives_the_rows_that_zarr_reads(tmp_path, dtype):
    embeddings = create(tmp_path, dtype)
    for shard in embeddings.shards():
        embeddings.write(shard, VALUES[shard.start : shard.stop].astype(dtype))
    decoded = np.empty((ROWS, DIM), dtype)
    for shard in embeddings.shards():
        embeddings.decode(shard, (tmp_path / shard.path).read_bytes(), out=decoded[shard.start : shard.stop])
    assert np.array_equal(decoded, embeddings.read(0, ROWS))


def test_decode__refuses_a_layout_that_is_not_ours(tmp_path, written):
    shard, *_ = written.shards()
    zarr.create_array(
        tmp_path / "other", shape=(ROWS, DIM), dtype="float16", chunks=(256, DIM), shards=(SHARD_ROWS, DIM)
    )[:] = VALUES
    data = (tmp_path / "other/c/0/0").read_bytes()
    with pytest.raises(ProtoRKDError, match="must hold plain chunks of 256 rows; the one at row 0 is not"):
        written.decode(shard, data, out=np.empty((SHARD_ROWS, DIM), "float16"))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_write__refuses_what_is_no_finite_number(tmp_path, dtype, bad):
    embeddings = create(tmp_path, dtype)
    shard = next(embeddings.shards())
    values = VALUES[: shard.stop].astype(dtype)
    values[300, 1] = bad
    with pytest.raises(ProtoRKDError, match=r"c/0/0 must hold finite numbers; row 300 has NaN or infinity"):
        embeddings.write(shard, values)
    assert not (tmp_path / shard.path).exists()


def test_read__never_takes_a_missing_shard_for_data(tmp_path, written):
    opened = EmbeddingArray.open(tmp_path)
    first, *_ = written.shards()
    (tmp_path / first.path).unlink()  # after it was looked for
    with pytest.raises(ProtoRKDError, match=r"must (hold finite numbers|be as it was written)"):
        opened.read(0, ROWS)
    assert opened.read_sound(first) is None


def test_decode__refuses_nan_of_an_earlier_version(tmp_path, monkeypatch):
    embeddings = create(tmp_path)
    shard = next(embeddings.shards())
    values = VALUES[: shard.stop].astype("float16")
    values[3] = np.nan
    with monkeypatch.context() as patch:
        patch.setattr(embeddings, "_check_finite", lambda *_args, **_options: None)
        embeddings.write(shard, values)
    with pytest.raises(ProtoRKDError, match="row 3 has NaN"):
        embeddings.decode(shard, (tmp_path / shard.path).read_bytes(), out=np.empty_like(values))


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_are_finite__agrees_with_numpy(dtype):
    with np.errstate(over="ignore"):
        numbers = np.array([0, -0.0, 65504, -65504, 6e-8, 1e5, np.nan, -np.nan, np.inf, -np.inf], dtype)
    for number in numbers:
        assert are_finite(np.array([[1, number]], dtype)) == bool(np.isfinite(number))
    assert are_finite(np.empty((0, 3), dtype))
