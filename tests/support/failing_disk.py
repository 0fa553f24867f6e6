"""A disk whose n-th operation fails, as in SQLite's tests (sqlite.org/testing.html)."""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest

_CALLS = ("fsync", "rename", "replace", "mkdir")


class FailingDisk:
    """Counts writes, waits for the disk, renames and new folders below a folder, and lets one of them fail.

    Args:
        root: Folder that is watched.
        nth: Number of the operation that fails, from 1.
        code: Error number, an errno. A write that fails with ENOSPC has written half of its bytes before.
    """

    def __init__(self, root: Path, *, nth: int, code: int) -> None:
        self._root = os.fspath(root)
        self._nth = nth
        self._code = code
        self._count = 0
        self.failed = ""

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Replace the real disk by it, for this process."""
        with pytest.MonkeyPatch.context() as patch:
            for name in _CALLS:
                patch.setattr(os, name, self._call(name, getattr(os, name)))
            patch.setattr(io, "open", self._open(io.open))
            patch.setattr(pq, "write_table", self._library_write(pq.write_table))
            yield

    def _library_write(self, real):
        """Wrap a writer in C++, of which only whole files are seen."""

        def write(table, path, **options):
            real(table, path, **options)
            try:
                self._count_or_fail("write", os.fspath(path))
            except OSError:
                path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
                raise

        return write

    def _call(self, name, real):
        def call(target, *args, **options):
            place = Path(f"/proc/self/fd/{target}").resolve() if name == "fsync" else target
            self._count_or_fail(name, os.fspath(place))
            return None if name == "fsync" else real(target, *args, **options)

        return call

    def _open(self, real):
        def open_(file, mode="r", *args, **options):
            opened = real(file, mode, *args, **options)
            if not isinstance(file, int) and set(mode) & set("wax+") and os.fspath(file).startswith(self._root):
                return _Written(opened, lambda: self._count_or_fail("write", os.fspath(file)))
            return opened

        return open_

    def _count_or_fail(self, name: str, place: str) -> None:
        if place.startswith(self._root):
            self._count += 1
            if self._count == self._nth:
                self.failed = f"{name} {place}"
                raise OSError(self._code, os.strerror(self._code), place)


class _Written:
    """A file whose writes are counted; one that fails leaves half of its bytes behind."""

    def __init__(self, file, count_or_fail) -> None:
        self._file = file
        self._count_or_fail = count_or_fail

    def write(self, data):
        try:
            self._count_or_fail()
        except OSError:
            self._file.write(
                memoryview(data)[: len(data) // 2] if not isinstance(data, str) else data[: len(data) // 2]
            )
            self._file.flush()
            raise
        return self._file.write(data)

    def writelines(self, lines):
        self.write(b"".join(lines))

    def __enter__(self):
        self._file.__enter__()
        return self

    def __exit__(self, *error):
        return self._file.__exit__(*error)

    def __getattr__(self, name):
        return getattr(self._file, name)
