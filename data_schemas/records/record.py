"""A record: an image inside a container file, found by its locator and read by itself."""

import functools
import os
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_schemas.errors import ProtoRKDError
from data_schemas.records.opened import open_bytes

MAX_RECORD_BYTES = 1 << 28
"""A larger image is refused before it is read: three bytes for each pixel that an image may have."""

BROKEN = (OSError, ValueError, OverflowError, MemoryError, KeyError, pa.ArrowException)
"""Errors that libraries raise over a damaged file."""

ABSENT = -1

_MAX_OPEN = 512  # containers that a process holds open: it may have 1,024 files

Places = NDArray[np.int64]


class UnreadableRecord(Exception):  # noqa: N818 -- a verdict on one record, which whoever reads counts
    """A record that cannot be read.

    Args:
        reason: Short sentence that says why.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Records(Protocol):
    """The records of a container file; small when pickled."""

    @property
    def path(self) -> Path:
        """Path of the container."""

    def find(self, names: pa.LargeStringArray) -> Places:
        """Find records.

        Args:
            names: Ends of the records' locators, after the container's name.

        Raises:
            ProtoRKDError: the container is damaged.

        Shapes:
            returns: (names, 2), int64: what `read` takes; `ABSENT` twice for a record that is not there.
        """

    def read(self, first: int, second: int) -> bytes:
        """Read one record; threads may do so at once.

        Raises:
            UnreadableRecord: it is damaged, too large, or gone.
        """


def read_range(path: Path, offset: int, size: int) -> bytes:
    """Read some bytes of a file, which stays open.

    Raises:
        UnreadableRecord: they are not there, or too many.
    """
    if size > MAX_RECORD_BYTES:
        raise UnreadableRecord(f"a record of more than {MAX_RECORD_BYTES >> 20} MiB")
    try:
        data: bytes = _opened(path, facts_of(path)).read_at(size, offset)
    except (OSError, ProtoRKDError) as error:
        raise UnreadableRecord(f"unreadable container: {error}") from error
    if len(data) < size:
        raise UnreadableRecord("a container that ends too early")
    return data


def facts_of(path: Path) -> tuple[int, ...]:
    """Return facts that change when a file is replaced, so that an open handle is not taken for the new one.

    Raises:
        OSError: there is no such file.
    """
    stat = os.stat(path)  # noqa: PTH116 - quicker, and each record asks
    return stat.st_ino, stat.st_size, stat.st_mtime_ns


@functools.lru_cache(_MAX_OPEN)
def _opened(path: Path, facts: tuple[int, ...]) -> pa.NativeFile:
    return open_bytes(path)
