"""The one place where data files from outside are opened, for reading at any offset."""

from pathlib import Path

import pyarrow as pa

from data_schemas.errors import ProtoRKDError
from data_schemas.regular_files import check_regular


def open_bytes(path: Path) -> pa.NativeFile:
    """Open a file for `read_at`, which threads may call at once, and for all of arrow's readers.

    Raises:
        ProtoRKDError: it is absent, no regular file, or cannot be read.
    """
    check_regular(path)
    try:
        return pa.OSFile(str(path))
    except OSError as error:
        raise ProtoRKDError(f"{path} must be readable; {error}. Check its permissions.") from error


def map_bytes(path: Path) -> pa.Buffer:
    """Map a whole file into memory, for random access.

    Raises:
        ProtoRKDError: as `open_bytes`, or it is empty.
    """
    with open_bytes(path) as file:
        size = file.size()
    if not size:
        raise ProtoRKDError(f"{path} must not be empty; got no bytes. Fetch it again.")
    return pa.memory_map(str(path)).read_buffer()
