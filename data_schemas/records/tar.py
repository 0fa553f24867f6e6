"""Members of a tar: listed once, read by their place in the file, never unpacked."""

import io
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from data_schemas.errors import ProtoRKDError
from data_schemas.records.opened import open_bytes
from data_schemas.records.record import ABSENT, Places, read_range

MEMBERS_SCHEMA = pa.schema(
    [
        pa.field("name", pa.large_string(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("problem", pa.string()),
    ]
)
_BUFFER_BYTES = 1 << 16
_MOST_AT_ONCE = 1 << 24  # bytes of a header: an extended header may claim any size


def list_members(path: Path) -> pa.Table:
    """List a tar's members in their order, without folders: name, place, size, and why it cannot be used.

    Raises:
        ProtoRKDError: the file is absent, no tar, compressed, cut, or its headers contradict each other.
    """
    rows: list[tuple[str, int, int, str | None]] = []
    try:
        with open_bytes(path) as file, tarfile.open(fileobj=_Reader(file), mode="r:") as tar:
            for member in _members(tar):
                if not member.isdir():
                    name = member.name.removeprefix("./")
                    rows.append((_printable(name), member.offset_data, member.size, _problem(member, name)))
    except (tarfile.TarError, OSError, ValueError, OverflowError, MemoryError, RecursionError) as error:
        last = f", after {rows[-1][0]}" if rows else ""
        raise ProtoRKDError(
            f"{path} must be a whole tar that is not compressed; {error or 'its headers are damaged'}{last}. "
            "Fetch it again, or unpack its compression."
        ) from error
    columns = zip(*rows, strict=True) if rows else ([], [], [], [])
    arrays = [pa.array(column, kind.type) for column, kind in zip(columns, MEMBERS_SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=MEMBERS_SCHEMA)


def members_to_bytes(members: pa.Table) -> bytes:
    """Serialize a list of members, compressed."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, MEMBERS_SCHEMA, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_table(members)
    written: bytes = sink.getvalue().to_pybytes()
    return written


def members_from_bytes(data: bytes) -> pa.Table:
    """Read what `members_to_bytes` wrote."""
    return pa.ipc.open_stream(data).read_all()


def _members(tar: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := tar.next()) is not None:
        tar.members = []  # type: ignore[attr-defined] # otherwise it would keep all of them
        if tar.offset <= member.offset:
            raise tarfile.ReadError("a header that points back")
        yield member
    _check_end(tar)


def _check_end(tar: tarfile.TarFile) -> None:
    """Refuse what the library takes for an end: a damaged header, none at all, and members behind the mark.

    Raises:
        ReadError: the file ends there otherwise than by blocks of zeros.
    """
    file = tar.fileobj
    assert file is not None
    file.seek(tar.offset)
    block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE:
        raise tarfile.ReadError("no mark at its end, so it may be cut; truncate -s +1024 gives it one if it is not")
    if any(block):
        raise tarfile.ReadError("a header that is damaged")
    while block := file.read(_BUFFER_BYTES):
        if any(block):
            raise tarfile.ReadError("more behind the mark of its end, as where tars were put one behind the other")


def _problem(member: tarfile.TarInfo, name: str) -> str | None:
    if member.issym() or member.islnk():
        return "a link in a tar"
    if not member.isreg() or member.issparse():
        return "no plain file in a tar"
    if name.startswith("/") or ".." in name.split("/") or _printable(name) != name:
        return "a name that leads out of its tar"
    return None


def _printable(name: str) -> str:
    return name.encode(errors="replace").decode().replace("\0", "?")


class _Reader(io.RawIOBase):
    """The file from which the library reads headers: a buffer at a time, and never more than there is."""

    def __init__(self, file: pa.NativeFile) -> None:
        self._file, self._size = file, file.size()
        self._at, self._start, self._buffer = 0, 0, b""

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = 0) -> int:
        if whence or offset < 0:
            raise tarfile.ReadError("a header that points nowhere")
        self._at = offset
        return offset

    def read(self, size: int = -1) -> bytes:
        if size > _MOST_AT_ONCE:
            raise tarfile.ReadError("a header that is too large")
        begin = self._at - self._start
        if not 0 <= begin <= begin + size <= len(self._buffer):
            self._start, begin = self._at, 0
            self._buffer = self._file.read_at(max(size, _BUFFER_BYTES), self._at) if self._at < self._size else b""
        data = self._buffer[begin : begin + size]
        self._at += len(data)
        return data


@dataclass(frozen=True)
class TarRecords:
    """Members of a tar, by name.

    Args:
        path: Path of the tar.
        members: Returns the list of its members.
    """

    path: Path
    members: Callable[[Path], pa.Table] = field(default=list_members, compare=False)

    def find(self, names: pa.LargeStringArray) -> Places:
        """Find the offset and size of each member."""
        table = self.members(self.path)
        table = table.filter(pc.is_null(table["problem"]))
        rows = pc.index_in(names, value_set=table["name"].combine_chunks())
        places = np.full((len(names), 2), ABSENT, np.int64)
        there = rows.is_valid().to_numpy(zero_copy_only=False)
        for column, name in enumerate(("offset", "size")):
            places[there, column] = table[name].take(rows.drop_null()).to_numpy()
        return places

    def read(self, first: int, second: int) -> bytes:
        """Read the bytes at an offset."""
        return read_range(self.path, first, second)
