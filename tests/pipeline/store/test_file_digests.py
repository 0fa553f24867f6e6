import os
import sqlite3
import tarfile
import time

import pytest

import data_schemas.mounts
from data_schemas.errors import ProtoRKDError
from data_schemas.files import hash_file
from pipeline.store import file_digests as memo
from pipeline.store.file_digests import FileDigests


@pytest.fixture
def reads(monkeypatch):
    """List the files that are read, in order; every change counts as long past."""
    read = []

    def count(path):
        read.append(path.name)
        return hash_file(path)

    monkeypatch.setattr(memo, "hash_file", count)
    monkeypatch.setattr(memo, "_SETTLED_S", -3600.0)
    return read


@pytest.fixture
def paths(tmp_path):
    paths = [tmp_path / name for name in ("a", "b")]
    for path in paths:
        path.write_text(path.name)
    return paths


@pytest.fixture
def digests(tmp_path):
    return FileDigests(tmp_path / "store" / "memo.sqlite")


def test_digests__are_sha256_in_order(digests, paths):
    assert digests.digests(paths[::-1]) == [hash_file(path) for path in paths[::-1]]


def test_digests__read_an_unchanged_file_once(digests, paths, reads):
    first = digests.digests(paths)
    assert digests.digests(paths) == first
    assert digests.digest(paths[0]) == first[0]
    assert sorted(reads) == ["a", "b"]


def test_digests__outlive_the_process(tmp_path, paths, reads):
    for _ in range(2):
        FileDigests(tmp_path / "memo.sqlite").digests(paths)
    assert sorted(reads) == ["a", "b"]


def test_digests__work_in_batches(digests, tmp_path, reads, monkeypatch):
    monkeypatch.setattr(memo, "_BATCH", 3)
    paths = [tmp_path / f"{number}.txt" for number in range(10)]
    for path in paths:
        path.write_text(path.name)
    expected = [hash_file(path) for path in paths]
    assert digests.digests(paths) == expected
    assert digests.digests(paths) == expected
    assert len(reads) == 10


def test_digests__read_a_changed_file_again(digests, paths, reads):
    digests.digests(paths)
    paths[0].write_text("changed")
    assert digests.digests(paths) == [hash_file(path) for path in paths]
    assert sorted(reads) == ["a", "a", "b"]


def test_digests__notice_new_bytes_under_an_old_time_stamp(digests, paths, reads):
    before, stat = digests.digest(paths[0]), paths[0].stat()
    time.sleep(0.02)  # beyond the file system's clock tick
    paths[0].write_text("z")
    os.utime(paths[0], ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert paths[0].stat().st_mtime_ns == stat.st_mtime_ns
    assert paths[0].stat().st_size == stat.st_size
    assert digests.digest(paths[0]) == hash_file(paths[0]) != before


def test_digests__notice_a_file_put_in_place_of_another(digests, paths, reads):
    digests.digests(paths)
    paths[1].replace(paths[0])
    assert digests.digest(paths[0]) == hash_file(paths[0])


def test_digests__do_not_remember_what_changed_a_moment_ago(digests, paths, reads, monkeypatch):
    monkeypatch.setattr(memo, "_SETTLED_S", 2.0)
    digests.digest(paths[0])
    digests.digest(paths[0])
    assert reads == ["a", "a"]


def test_digests__are_none_for_what_is_not_there(digests, paths, tmp_path):
    assert digests.digests([tmp_path / "absent", paths[0], tmp_path]) == [None, hash_file(paths[0]), None]
    with pytest.raises(ProtoRKDError, match=r"absent must be a readable file; it is missing"):
        digests.digest(tmp_path / "absent")


def test_digests__need_no_database(paths):
    assert FileDigests(None).digests(paths) == [hash_file(path) for path in paths]


def test_digests__of_no_files_are_none_at_all(digests):
    assert digests.digests([]) == []


@pytest.mark.parametrize("size", [20, 5000])
def test_digests__say_that_the_database_is_damaged(digests, paths, reads, tmp_path, size):
    digests.digests(paths)
    (tmp_path / "store" / "memo.sqlite").write_bytes(b"\x07" * size)
    with pytest.raises(ProtoRKDError, match=r"memo\.sqlite must be a sound and writable database; .*Remove it"):
        digests.digests(paths)


def test_digests__say_that_the_store_cannot_be_made(paths):
    with pytest.raises(ProtoRKDError, match="must be writable"):
        FileDigests(paths[0] / "memo.sqlite").digests(paths)


def test_digests__go_on_when_nothing_can_be_remembered(digests, paths, reads, tmp_path):
    digests.digests([])
    with sqlite3.connect(tmp_path / "store" / "memo.sqlite") as connection:
        connection.execute("CREATE TRIGGER full BEFORE INSERT ON digests BEGIN SELECT RAISE(ABORT, 'full'); END")
    connection.close()
    assert digests.digests(paths) == [hash_file(path) for path in paths]


def test_digests__go_on_when_there_is_no_room_for_the_database(digests, paths, reads, monkeypatch):
    real = sqlite3.connect

    def full(*args, **kwargs):
        connection = real(*args, **kwargs)
        connection.execute("PRAGMA max_page_count = 1")
        return connection

    with monkeypatch.context() as patch:
        patch.setattr(memo.sqlite3, "connect", full)
        assert digests.digests(paths) == [hash_file(path) for path in paths]
    digests.digests(paths)
    digests.digests(paths)
    assert reads == ["a", "b"] * 2


def mounted(monkeypatch, tmp_path, kind):
    """Have the system say that everything here lies on one kind of file system."""
    device = tmp_path.stat().st_dev
    mounts = tmp_path / "mountinfo"
    number = f"{os.major(device)}:{os.minor(device)}"
    mounts.write_text(f"22 27 0:21 / /proc rw - proc proc rw\n27 1 {number} / / rw - {kind} x rw\n")
    monkeypatch.setattr(data_schemas.mounts, "MOUNTS", mounts)


@pytest.mark.parametrize("kind", ["squashfs", "fuse.sshfs", "fuseblk", "vfat"])
def test_digests__are_not_remembered_where_times_do_not_tell_every_change(tmp_path, paths, reads, monkeypatch, kind):
    FileDigests(tmp_path / "memo.sqlite").digests(paths)  # as an earlier release did
    mounted(monkeypatch, tmp_path, kind)
    digests = FileDigests(tmp_path / "memo.sqlite")
    for _ in range(2):
        assert digests.digests(paths) == [hash_file(path) for path in paths]
    assert sorted(reads) == ["a", "a", "b", "b"]  # once more, and then not within one run


@pytest.mark.parametrize("kind", ["ext4", "xfs", "nfs4", "fusectl", "overlay"])
def test_digests__are_remembered_where_times_tell_every_change(tmp_path, paths, reads, monkeypatch, kind):
    mounted(monkeypatch, tmp_path, kind)
    for _ in range(2):
        FileDigests(tmp_path / "memo.sqlite").digests(paths)
    assert sorted(reads) == ["a", "b"]


@pytest.fixture
def tar(tmp_path):
    path = tmp_path / "pairs.tar"
    with tarfile.open(path, "w") as file:
        file.add(__file__, arcname="0.txt")
    return path


def test_members__of_a_tar_are_read_once(digests, tar, reads, monkeypatch):
    first = digests.members(tar)
    monkeypatch.setattr("data_schemas.records.tar.list_members", None)
    assert digests.members(tar).equals(first)


@pytest.mark.parametrize("has_members", [False, True])
def test_members__are_read_where_nothing_may_be_remembered(digests, tar, reads, tmp_path, has_members):
    database = tmp_path / "store" / "memo.sqlite"
    digests.digests([tar])
    if not has_members:  # as an earlier release left it
        with sqlite3.connect(database) as connection:
            connection.execute("DROP TABLE members")
        connection.close()
    before = database.read_bytes()
    assert FileDigests(database, remembers=False).members(tar).num_rows == 1
    assert FileDigests(database, remembers=False).digest(tar) == hash_file(tar)
    assert database.read_bytes() == before
