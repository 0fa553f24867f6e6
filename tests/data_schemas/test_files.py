import errno
import os

import pytest

from data_schemas import files
from data_schemas.errors import ProtoRKDError
from data_schemas.files import (
    FileEntry,
    allocate,
    append_line,
    hash_file,
    list_files,
    read_json,
    write_atomic,
    write_json,
)

ABC_SHA256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # FIPS 180-2, appendix B.1


def refuse(monkeypatch, target, name, code):
    def fail(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(target, name, fail)


def test_hash_file__is_sha256(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert hash_file(tmp_path / "a") == ABC_SHA256


def test_write_atomic__makes_parents_and_leaves_only_the_file(tmp_path):
    write_atomic(tmp_path / "a/b/c.bin", b"bytes")
    assert (tmp_path / "a/b/c.bin").read_bytes() == b"bytes"
    assert list((tmp_path / "a/b").iterdir()) == [tmp_path / "a/b/c.bin"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_write_atomic__leaves_the_old_file_when_the_disk_is_full(tmp_path, monkeypatch, call):
    path = tmp_path / "a.bin"
    path.write_bytes(b"old")
    with monkeypatch.context() as patch:
        target = os if call == "fsync" else type(path)
        refuse(patch, target, call, errno.ENOSPC)
        with pytest.raises(ProtoRKDError, match=r"a\.bin must be writable; No space left.*Free some space"):
            write_atomic(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_atomic_by__removes_the_partial_file_of_a_failed_writer(tmp_path):
    def half(partial):
        partial.write_bytes(b"half")
        raise RuntimeError("killed")

    with pytest.raises(RuntimeError):
        files.write_atomic_by(tmp_path / "a.bin", half)
    assert list(tmp_path.iterdir()) == []


def test_write_atomic__says_that_a_folder_is_a_file(tmp_path):
    (tmp_path / "store").write_bytes(b"")
    with pytest.raises(ProtoRKDError, match="must be writable"):
        write_atomic(tmp_path / "store" / "a.bin", b"")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_write_atomic__says_that_a_folder_is_read_only(tmp_path):
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(ProtoRKDError, match="Give --store a folder"):
            write_atomic(tmp_path / "a.bin", b"")
    finally:
        tmp_path.chmod(0o700)


def test_allocate__takes_the_room_at_once(tmp_path):
    allocate(tmp_path / "a/b", 100_000)
    found = (tmp_path / "a/b").stat()
    assert found.st_size == 100_000
    assert found.st_blocks * 512 >= 100_000


def test_allocate__says_that_the_disk_is_full(tmp_path, monkeypatch):
    refuse(monkeypatch, os, "posix_fallocate", errno.ENOSPC)
    with pytest.raises(ProtoRKDError, match=r"a must be writable; No space left.*Free some space"):
        allocate(tmp_path / "a", 10)


def test_append_line__begins_anew_after_a_torn_line(tmp_path):
    path = tmp_path / "journal"
    append_line(path, "whole")
    with path.open("ab") as file:
        file.write(b"to")
    append_line(path, "next")
    assert path.read_bytes() == b"whole\nto\nnext\n"


def test_append_line__says_that_the_disk_is_full(tmp_path, monkeypatch):
    refuse(monkeypatch, os, "fsync", errno.ENOSPC)
    with pytest.raises(ProtoRKDError, match="Free some space"):
        append_line(tmp_path / "journal", "line")


def test_write_json__is_sorted_and_readable(tmp_path):
    write_json(tmp_path / "a.json", {"b": "Zürich", "a": [1]})
    assert (tmp_path / "a.json").read_text() == '{\n  "a": [\n    1\n  ],\n  "b": "Zürich"\n}\n'


def test_write_json__keeps_a_path_that_is_not_utf_8(tmp_path):
    location = os.fsdecode(b"/data/caf\xe9.tsv")
    write_json(tmp_path / "a.json", {"location": location})
    assert read_json(tmp_path / "a.json") == {"location": location}


@pytest.mark.parametrize("text", [b"", b'{"a": 1', b"\xff\xfe\xfd"])
def test_read_json__refuses_what_is_not_json(tmp_path, text):
    (tmp_path / "a.json").write_bytes(text)
    with pytest.raises(ProtoRKDError, match=r"a\.json must be JSON"):
        read_json(tmp_path / "a.json")


def test_read_json__says_that_the_file_is_missing(tmp_path):
    with pytest.raises(ProtoRKDError, match=r"a\.json must exist"):
        read_json(tmp_path / "a.json")


def test_file_entry__names_what_is_wrong(tmp_path):
    file = tmp_path / "a" / "b"
    file.parent.mkdir()
    file.write_bytes(b"abc")
    entry = FileEntry.of(tmp_path, "a/b")
    assert entry == FileEntry("a/b", 3, ABC_SHA256)
    assert entry.problem(tmp_path, read=True) is None
    file.write_bytes(b"abd")
    assert entry.problem(tmp_path, read=False) is None
    assert entry.problem(tmp_path, read=True) == "has other bytes than were written"
    file.write_bytes(b"ab")
    assert entry.problem(tmp_path, read=False) == "has 2 bytes instead of 3"
    file.unlink()
    assert entry.problem(tmp_path, read=False) == "missing"
    file.parent.rmdir()
    file.parent.write_bytes(b"")
    assert entry.problem(tmp_path, read=False) == "missing"


def test_file_entry__says_that_the_disk_does_not_give_the_bytes(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"abc")
    entry = FileEntry.of(tmp_path, "a")
    refuse(monkeypatch, files, "hash_file", errno.EIO)
    assert entry.problem(tmp_path, read=True) == f"cannot be read: {os.strerror(errno.EIO)}"


def test_list_files__is_sorted_and_passes_over_partial_files(tmp_path):
    for name in ("b", "a/z", "a/.x.0123.partial", "a.txt"):
        write_atomic(tmp_path / "root" / name, b"")
    assert list_files(tmp_path / "root") == ["a.txt", "a/z", "b"]


def test_write_unsynced__makes_parents_and_says_that_it_cannot_write(tmp_path):
    files.write_unsynced(tmp_path / "a/b", b"bytes")
    assert (tmp_path / "a/b").read_bytes() == b"bytes"
    with pytest.raises(ProtoRKDError, match="must be writable"):
        files.write_unsynced(tmp_path / "a/b/c", b"bytes")


@pytest.mark.parametrize(("num", "calls"), [(3, ["fsync"] * 3), (257, ["sync"])])
def test_fsync_all__forces_many_files_by_one_call(tmp_path, monkeypatch, num, calls):
    called = []
    monkeypatch.setattr(os, "fsync", lambda _: called.append("fsync"))
    monkeypatch.setattr(os, "sync", lambda: called.append("sync"))
    files.fsync_all([tmp_path] * num)
    assert called == calls
