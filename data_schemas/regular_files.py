"""Open regular files alone: a pipe, a terminal or a device may keep its reader for ever, deaf to signals."""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from data_schemas.errors import ProtoRKDError

# Opening a pipe that nobody writes to waits, unless it is told not to; reading a regular file never does.
_FLAGS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)


class NotRegularError(OSError):
    """A path leads to something that is neither a regular file nor a folder."""


def open_regular(path: Path | str) -> BinaryIO:
    """Open a regular file for reading; what the path leads to is looked at once it is open, so it cannot change.

    Raises:
        NotRegularError: it is a pipe, a socket or a device, perhaps behind a link.
        OSError: it is missing, a folder, or closed to the user.
    """
    return open(path, "rb", opener=regular_only)


def read_regular(path: Path | str) -> bytes:
    """Read a whole regular file.

    Raises:
        OSError: as `open_regular`.
    """
    with open_regular(path) as file:
        return file.read()


def regular_only(path: str, flags: int) -> int:
    """Open a regular file by number, as the ``opener`` of `open`."""
    try:
        descriptor = os.open(path, flags | _FLAGS)
    except OSError as error:
        if error.errno == errno.ENXIO:  # a socket
            raise NotRegularError(errno.ENXIO, "no regular file", path) from error
        raise
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    raise NotRegularError(errno.EINVAL, "no regular file", path)


def check_regular(path: Path) -> None:
    """Refuse a path that a library is about to open by itself, unless a regular file is there.

    Raises:
        ProtoRKDError: nothing is there, or a folder, a pipe, a socket or a device.
    """
    if not path.is_file():
        got = "a folder" if path.is_dir() else "no regular file" if path.exists() else "nothing there"
        raise ProtoRKDError(f"{path} must be a file; got {got}. Check the path.")
