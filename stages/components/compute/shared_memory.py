"""Put names and tensors into shared memory, so that handing them to another process copies nothing."""

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import overload

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from data_schemas.errors import ProtoRKDError

_SHARED_MEMORY = "/dev/shm"  # noqa: S108 - where Linux keeps it; read only for its free space
_LEAST = 1000  # fewer are quick to pickle
_SHARE = 0.5  # of the free shared memory that names may take; batches need it, too


class SharedStrings(Sequence[str]):
    """Names in shared memory, as one run of bytes and the offset of each.

    Args:
        names: Strings of any length.
    """

    def __init__(self, names: Sequence[str]) -> None:
        array = pa.array(names, pa.large_string())
        _, offsets, data = array.buffers()
        starts = np.frombuffer(offsets, np.int64, count=len(array) + 1) if len(array) else np.zeros(1, np.int64)
        text = np.frombuffer(data, np.uint8, count=int(starts[-1])) if starts[-1] else np.empty(0, np.uint8)
        self._text, self._starts = (share(torch.tensor(part)) for part in (text, starts))

    def __len__(self) -> int:
        return len(self._starts) - 1

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        """Decode one name, or several."""
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        place = range(len(self))[index]
        start, stop = self._starts[place : place + 2].tolist()
        name: bytes = self._text.numpy()[start:stop].tobytes()
        return name.decode()


def share(tensor: Tensor) -> Tensor:
    """Copy a tensor to shared memory, which other processes are handed without a copy.

    Raises:
        ProtoRKDError: shared memory is full.
    """
    return move_to_shared_memory(tensor.clone())


def move_to_shared_memory(tensor: Tensor) -> Tensor:
    """Move the memory of a tensor, and of all its views, to shared memory, unless it is there.

    Raises:
        ProtoRKDError: shared memory is full.
    """
    with shared_memory_errors():
        shared: Tensor = tensor.share_memory_()  # type: ignore[no-untyped-call]
    return shared


@contextmanager
def shared_memory_errors() -> Iterator[None]:
    """Turn torch's error of a full shared memory into one that says what to do.

    Raises:
        ProtoRKDError: shared memory is full.
    """
    try:
        yield
    except RuntimeError as error:
        if not ("torch_" in str(error) and "No space left" in str(error)):
            raise
        raise ProtoRKDError(
            f"{_SHARED_MEMORY} must have room for what processes hand over; it is full. Enlarge it (docker run "
            "--shm-size 2g), free some of it, or pass fewer --workers or a smaller --batch-size."
        ) from error


def share_names(names: Sequence[str]) -> Sequence[str]:
    """Move names to shared memory, unless they are few, are not a list, or do not fit."""
    if not isinstance(names, list) or len(names) < _LEAST:
        return names
    size = sum(map(len, names)) * 4 + 8 * len(names)  # at most: a character has 1 to 4 bytes
    try:
        fits = size < _SHARE * shutil.disk_usage(_SHARED_MEMORY).free
    except OSError:
        fits = True
    return SharedStrings(names) if fits else names
