"""Packed images are unpacked once, by content, without running what a pickle holds."""

import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from set_miniatures import (
    PACKED,
    TORCHVISION,
    find_one,
    folder_of,
    make_dtd,
    make_mnist,
    make_stl10,
    random_bytes,
    sightings,
    write_idx,
)

from data_schemas.errors import ProtoRKDError
from stages.evaluate.sets.datasets.formats import read_cifar, read_idx, read_pickle


def test_unpack__leaves_images_that_are_files(tmp_path: Path) -> None:
    make_dtd(tmp_path)
    found = find_one(tmp_path, "dtd")
    assert folder_of(found, "test", tmp_path / "cache") is found.test
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("name", PACKED)
def test_unpack__does_its_work_once(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    TORCHVISION[name][0](tmp_path)
    found = find_one(tmp_path, name)
    first = folder_of(found, "test", tmp_path / "cache")
    assert first.root.parent == tmp_path / "cache"
    monkeypatch.setattr("stages.evaluate.sets.datasets.unpacking.write_unsynced", None)
    assert folder_of(found, "test", tmp_path / "cache") == first


def test_unpack__takes_up_what_was_not_whole(tmp_path: Path) -> None:
    make_mnist(tmp_path)
    found = find_one(tmp_path, "mnist")
    first = folder_of(found, "test", tmp_path / "cache")
    expected = sightings(first)
    (first.root / "labels.json").unlink()
    (first.root / first.images[1]).write_bytes(b"half")
    assert sightings(folder_of(found, "test", tmp_path / "cache")) == expected


def test_unpack__goes_by_content_and_not_by_place(tmp_path: Path) -> None:
    roots = [tmp_path / "here", tmp_path / "there"]
    for root in roots:
        make_stl10(root)
    folders = [folder_of(find_one(root, "stl10"), "test", tmp_path / "cache") for root in roots]
    assert folders[0].root == folders[1].root
    (roots[1] / "stl10_binary/test_y.bin").write_bytes(bytes([1, 1]))
    assert folder_of(find_one(roots[1], "stl10"), "test", tmp_path / "cache").root != folders[0].root


@pytest.mark.parametrize(
    ("name", "file", "content", "message"),
    [
        ("mnist", "MNIST/raw/t10k-labels-idx1-ubyte", b"\0\0\x08\x01\0\0\0\x03\1\2", "must be an idx file of bytes"),
        ("mnist", "MNIST/raw/t10k-labels-idx1-ubyte", b"\0\0\x08\x01\0\0\0\x02\1\2", "must be the labels of"),
        ("mnist", "MNIST/raw/t10k-labels-idx1-ubyte", b"\0\0\x08\x01\0\0\0\x03\1\2\x0a", "must have labels of 10"),
        ("stl10", "stl10_binary/test_X.bin", b"few", "must be the images of test_y.bin"),
        ("stl10", "stl10_binary/test_y.bin", b"\0\1", "must have labels of 3 classes"),
        ("cifar10", "cifar-10-batches-py/test_batch", b"no pickle", "must be a pickle of plain arrays"),
        ("cifar10", "cifar-10-batches-py/test_batch", pickle.dumps({"data": []}), "must be a batch of CIFAR"),
    ],
)
def test_unpack__refuses_damaged_files(name: str, file: str, content: bytes, message: str, tmp_path: Path) -> None:
    TORCHVISION[name][0](tmp_path)
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ProtoRKDError, match=message):
        folder_of(find_one(tmp_path, name), "test", tmp_path / "cache")


def test_read_pickle__runs_no_programs(tmp_path: Path) -> None:
    class Program:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    (tmp_path / "batch").write_bytes(pickle.dumps(Program()))
    with pytest.raises(ProtoRKDError, match="is not allowed"):
        read_pickle(tmp_path / "batch")
    assert not (tmp_path / "ran").exists()


def test_read_cifar__takes_what_python_2_wrote(tmp_path: Path) -> None:
    pixels = random_bytes(2, 3072, seed=0)
    shape = b"".join(b"J" + struct.pack("<i", length) for length in pixels.shape)
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR(K\x01(" + shape + b"t"
        b"cnumpy\ndtype\n(U\x02u1K\x00K\x01tR(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        b"\x89T" + struct.pack("<i", pixels.nbytes) + pixels.tobytes() + b"tb"
    )
    (tmp_path / "batch").write_bytes(b"\x80\x02}(U\x04data" + array + b"U\x06labels](K\x05K\x07eu.")
    images, labels = read_cifar((tmp_path / "batch",))
    assert images.shape == (2, 32, 32, 3)
    np.testing.assert_array_equal(images[1, 3, 4], pixels[1].reshape(3, 32, 32)[:, 3, 4])
    assert labels.tolist() == [5, 7]


def test_read_idx__gives_the_shape_that_the_file_says(tmp_path: Path) -> None:
    values = random_bytes(2, 3, 4, seed=0)
    write_idx(tmp_path / "values", values)
    np.testing.assert_array_equal(read_idx(tmp_path / "values"), values)
