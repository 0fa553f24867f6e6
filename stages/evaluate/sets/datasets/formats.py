"""Readers of the file formats that sets come in: pickles, MATLAB files, idx and raw bytes."""

import pickle
from pathlib import Path
from typing import IO, Any

import numpy as np

from data_schemas.errors import ProtoRKDError

_STL10_SHAPE = (3, 96, 96)
_STL10_BYTES = 3 * 96 * 96


def read_mat(path: Path) -> dict[str, Any]:
    """Read a MATLAB file, without axes of length one.

    Raises:
        ProtoRKDError: it is no such file.
    """
    from scipy.io import loadmat  # type: ignore[import-untyped]

    try:
        found: dict[str, Any] = loadmat(path, squeeze_me=True)
    except Exception as error:  # damaged bytes make its readers raise any exception at all
        raise _damaged(path, "a MATLAB file", error) from error
    return found


def read_pickle(path: Path) -> dict[str, Any]:
    """Read a pickle of lists, texts and arrays; one that asks for anything else could run programs and is refused.

    Raises:
        ProtoRKDError: it is damaged or holds something else.
    """
    try:
        with path.open("rb") as file:
            found: dict[str, Any] = _PlainUnpickler(file, encoding="latin1").load()
    except Exception as error:  # damaged bytes make pickle raise any exception at all
        raise _damaged(path, "a pickle of plain arrays", error) from error
    return found


def read_idx(path: Path) -> np.ndarray:
    """Read an array of bytes in MNIST's idx format; the file says its shape.

    Raises:
        ProtoRKDError: it is no such file, or shorter or longer than it says.
    """
    data = path.read_bytes()
    num_axes = data[3] if len(data) >= 4 and data[:3] == b"\0\0\x08" else 0
    shape = tuple(np.frombuffer(data[4 : 4 + 4 * num_axes], ">u4").tolist())
    content = data[4 + 4 * num_axes :]
    if num_axes == 0 or len(shape) < num_axes or len(content) != int(np.prod(shape)):
        raise _damaged(path, "an idx file of bytes", f"{len(data)} bytes, shape {shape}")
    return np.frombuffer(content, np.uint8).reshape(shape)


def read_cifar(files: tuple[Path, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Read images and labels of CIFAR's batches; of CIFAR-100 the fine labels.

    Raises:
        ProtoRKDError: a file is damaged.
    """
    images, labels = [], []
    for path in files:
        batch = read_pickle(path)
        key = "labels" if "labels" in batch else "fine_labels"
        if "data" not in batch or key not in batch or np.size(batch["data"]) != 3072 * len(batch[key]):
            raise _damaged(path, "a batch of CIFAR", f"keys {sorted(map(str, batch))}")
        images.append(np.asarray(batch["data"], np.uint8).reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
        labels.append(np.asarray(batch[key], np.int64))
    return np.concatenate(images), np.concatenate(labels)


def read_mnist(files: tuple[Path, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Read images of digits, as RGB, and their labels from MNIST's two files.

    Raises:
        ProtoRKDError: a file is damaged, or they do not belong together.
    """
    images, labels = (read_idx(path) for path in files)
    if images.ndim != 3 or labels.shape != images.shape[:1]:
        raise _damaged(files[1], f"the labels of {files[0].name}", f"shapes {labels.shape} and {images.shape}")
    return np.repeat(images[..., None], 3, axis=3), labels.astype(np.int64)


def read_stl10(files: tuple[Path, ...]) -> tuple[np.ndarray, np.ndarray]:
    """Read images, which are stored by columns, and labels, which are counted from 1, from STL-10's two files.

    Raises:
        ProtoRKDError: the files do not belong together.
    """
    pixels, labels = (np.fromfile(path, np.uint8) for path in files)
    if len(pixels) != len(labels) * _STL10_BYTES:
        raise _damaged(files[0], f"the images of {files[1].name}", f"{len(pixels)} bytes for {len(labels)} labels")
    return pixels.reshape(-1, *_STL10_SHAPE).transpose(0, 3, 2, 1), labels.astype(np.int64) - 1


class _PlainUnpickler(pickle.Unpickler):
    def __init__(self, file: IO[bytes], *, encoding: str) -> None:
        super().__init__(file, encoding=encoding)

    def find_class(self, module: str, name: str) -> Any:
        # numpy's modules moved since the sets were written, so its names alone count.
        known = {"_reconstruct": np.empty(0).__reduce__()[0], "ndarray": np.ndarray, "dtype": _dtype}
        if module.partition(".")[0] == "numpy" and name in known:
            return known[name]
        if (module, name) == ("_codecs", "encode"):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{module}.{name} is not allowed")


def _dtype(form: str, *_: object) -> np.dtype[Any]:
    return np.dtype(form)  # old pickles pass two flags as numbers, about which numpy warns


def _damaged(path: Path, form: str, actual: object) -> ProtoRKDError:
    return ProtoRKDError(f"{path} must be {form}; got {actual}. Download or extract the set again.")
