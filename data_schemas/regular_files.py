"""Open regular files alone: a pipe, a terminal or a device may keep its reader for ever, deaf to signals."""

import errno
import functools
import os
import re
import stat
from pathlib import Path
from typing import BinaryIO

from data_schemas.errors import ProtoRKDError
from data_schemas.mounts import devices_of

# Opening a pipe that nobody writes to waits, unless it is told not to; reading a regular file never does.
_FLAGS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)

# What the kernel shows as regular files may end nowhere, as /proc/kcore, or keep its reader, as trace_pipe.
_KERNEL = re.compile(r"proc|sysfs|debugfs|tracefs|securityfs|configfs|cgroup2?|bpf|pstore|efivarfs|binfmt_misc")


class NotRegularError(OSError):
    """A path leads to something that is neither a regular file of a disk nor a folder."""


def open_regular(path: Path | str) -> BinaryIO:
    """Open a regular file for reading; what the path leads to is looked at once it is open, so it cannot change.

    Raises:
        NotRegularError: it is a pipe, a socket, a device or a file of the kernel, perhaps behind a link.
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
    facts = os.fstat(descriptor)
    if stat.S_ISREG(facts.st_mode) and not _is_of_kernel(facts):
        return descriptor
    os.close(descriptor)
    if stat.S_ISDIR(facts.st_mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), path)
    raise NotRegularError(errno.EINVAL, "no regular file", path)


def check_regular(path: Path) -> None:
    """Refuse a path that a library is about to open by itself, unless a regular file is there.

    Raises:
        ProtoRKDError: nothing is there, or a folder, a pipe, a socket, a device or a file of the kernel.
    """
    if not path.is_file() or _is_of_kernel(path.stat()):
        got = "a folder" if path.is_dir() else "no regular file" if path.exists() else "nothing there"
        raise ProtoRKDError(f"{path} must be a file; got {got}. Check the path.")


def _is_of_kernel(facts: os.stat_result) -> bool:
    """Tell whether a file is one that the kernel makes up; an empty one is worth another look at what is mounted."""
    return facts.st_dev in (_kernel_devices() if facts.st_size else devices_of(_KERNEL))


@functools.cache
def _kernel_devices() -> frozenset[int]:
    return devices_of(_KERNEL)
