"""Digests of files outside the store, and lists of tars, remembered as long as the files stay unchanged."""

import array
import contextlib
import hashlib
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from data_schemas.errors import ProtoRKDError
from data_schemas.files import disk_error, hash_file
from data_schemas.mounts import devices_of

if TYPE_CHECKING:
    import pyarrow as pa

_SETTLED_S = 2.0
_TIMELESS = re.compile(r"squashfs|cramfs|romfs|iso9660|erofs|msdos|vfat|exfat|fuse(blk)?(\..*)?")
_TABLES = (
    "digests (key BLOB PRIMARY KEY, sha256 TEXT NOT NULL)",
    "members (key BLOB PRIMARY KEY, list BLOB NOT NULL)",  # of tars
)
_IS_THERE = "SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = ?"
_BATCH = 2048
_FEW = 1000  # up to so many digests are looked up by key, however small the database
_MOST = 1 << 20  # digests to read into memory at once, at most
_PART = 4  # digests to read at once for each key asked for, at most
_SLICE = 128  # files that a thread stats at once, because a stat is quicker than a handover

_Recall = Callable[[Sequence[bytes]], dict[bytes, str]]


class FileDigests:
    """SHA-256 of files by content, read once: a file with the same size, times and inode is not read again.

    As in git's index, a file that was changed less than two seconds ago is hashed but not remembered, because its
    next change might not move its time stamp. Where no time tells every change, as on squashfs and FUSE, digests are
    remembered by this object alone.

    Args:
        database: Path of the database; None remembers nothing.
        remembers: Whether new digests are written; otherwise known ones are only read.
    """

    def __init__(self, database: Path | None, *, remembers: bool = True) -> None:
        self._database = database if remembers or (database is not None and database.is_file()) else None
        self._remembers = remembers
        self._for_now: dict[bytes, str] = {}  # of files on such file systems
        self._noted: dict[str, bytes] | None = None

    def digest(self, path: Path) -> str:
        """Return the SHA-256 of one file.

        Raises:
            ProtoRKDError: the file cannot be read.
        """
        [digest] = self.digests([path])
        if digest is None:
            raise ProtoRKDError(f"{path} must be a readable file; it is missing, closed to you, or no regular file.")
        return digest

    def digests(self, paths: Sequence[Path | str]) -> list[str | None]:
        """Return the SHA-256 of each file, in order; None where it is missing or unreadable."""
        return self.digests_and_facts(paths)[0]

    def digests_and_facts(self, paths: Sequence[Path | str]) -> tuple[list[str | None], "array.array[int]"]:
        """Return the SHA-256 of each file, in order, as `digests`, and its `facts_of` from before it was read.

        Returns:
            The digests, and one number for each file; 0 where there is no digest.
        """
        digests: list[str | None] = []
        facts = array.array("q")
        with self._open() as memory, ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1)) as pool:
            recall = _recaller(memory, len(paths))
            timeless = timeless_devices()
            for start in range(0, len(paths), _BATCH):
                found = self._batch(memory, recall, pool, paths[start : start + _BATCH], timeless)
                digests += [digest for digest, _ in found]
                facts.extend(seen for _, seen in found)
        return digests, facts

    @contextlib.contextmanager
    def noted(self) -> Iterator[dict[str, bytes]]:
        """Note what all times, size and inode of the files say whose digests are asked for meanwhile, by path.

        Long lists are left out: those are images, which are compared with what they were whenever they are opened.
        """
        before, self._noted = self._noted, {}
        try:
            yield self._noted
        finally:
            self._noted = before

    def recall(self, facts: Sequence[object]) -> list[str | None]:
        """Return the SHA-256 of things other than files, by facts that change with their bytes; None where unknown.

        Args:
            facts: Facts about each thing, compared by their text.
        """
        keys = [_key_of(each) for each in facts]
        with self._open() as memory:
            known = _recaller(memory, len(keys))(keys)
        return [known.get(key) for key in keys]

    def remember(self, digests: Mapping[object, str]) -> None:
        """Keep digests for `recall`, by the facts of each thing."""
        with self._open() as memory, contextlib.suppress(sqlite3.Error):
            if memory is not None:
                with memory:
                    rows = [(_key_of(facts), digest) for facts, digest in digests.items()]
                    memory.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?)", rows)

    def members(self, path: Path) -> "pa.Table":
        """Return the members of a tar, as `list_members` lists them; the tar is read only once.

        Raises:
            ProtoRKDError: as `list_members`.
        """
        from data_schemas.records.tar import list_members, members_from_bytes, members_to_bytes  # keeps pyarrow away

        seen = _look(path)
        key = None if seen is None or seen.device in timeless_devices() else seen.key
        with self._open() as memory:
            if memory is not None and key is not None:
                known = memory.execute("SELECT list FROM members WHERE key = ?", [key]).fetchone()
                if known is not None:
                    return members_from_bytes(known[0])
            newest = time.time_ns() - int(_SETTLED_S * 1e9)
            table = list_members(path)
            if memory is not None and key is not None and _changed_ns(path) < newest:
                with contextlib.suppress(sqlite3.Error), memory:
                    memory.execute("INSERT OR REPLACE INTO members VALUES (?, ?)", [key, members_to_bytes(table)])
        return table

    def _batch(
        self,
        memory: sqlite3.Connection | None,
        recall: _Recall,
        pool: ThreadPoolExecutor,
        paths: Sequence[Path | str],
        timeless: Set[int],
    ) -> list[tuple[str | None, int]]:
        """Return digest and facts of each file; read those that are not known."""
        slices = [paths[start : start + _SLICE] for start in range(0, len(paths), _SLICE)]
        seen = [each for some in pool.map(_look_at, slices) for each in some]
        if self._noted is not None and len(paths) <= _FEW:
            self._noted |= {str(path): each.key for path, each in zip(paths, seen, strict=True) if each is not None}
        known = recall([each.key for each in seen if each is not None])
        digests = [
            None if each is None else (self._for_now if each.device in timeless else known).get(each.key)
            for each in seen
        ]
        missing = [place for place, each in enumerate(seen) if each is not None and digests[place] is None]
        read = list(pool.map(_hash_or_none, [paths[place] for place in missing]))
        newest = time.time_ns() - int(_SETTLED_S * 1e9)
        rows = []
        for place, digest in zip(missing, read, strict=True):
            digests[place], each = digest, seen[place]
            if digest is None or each is None:
                continue
            if each.device in timeless:
                self._for_now[each.key] = digest
            elif _changed_ns(paths[place]) < newest:
                rows.append((each.key, digest))
        if memory is not None and rows:
            with contextlib.suppress(sqlite3.Error), memory:
                memory.executemany("INSERT OR REPLACE INTO digests VALUES (?, ?)", rows)
        return [
            (digest, 0 if digest is None or each is None else each.facts)
            for digest, each in zip(digests, seen, strict=True)
        ]

    @contextlib.contextmanager
    def _open(self) -> Iterator[sqlite3.Connection | None]:
        remembers = self._remembers and self._database is not None and may_write(self._database)
        if self._database is None or not (remembers or self._database.is_file()):
            yield None
            return
        try:
            if remembers:
                self._database.parent.mkdir(parents=True, exist_ok=True)
            mode = "rwc" if remembers else "ro"
            memory = sqlite3.connect(f"{self._database.absolute().as_uri()}?mode={mode}", uri=True, timeout=60)
        except OSError as error:
            raise disk_error(self._database, error) from error
        except sqlite3.Error as error:
            raise ProtoRKDError(f"{self._database} must be writable; {error}. Choose another --store.") from error
        with contextlib.closing(memory):
            try:
                yield memory if _has_tables(memory, makes_them=remembers) else None
            except sqlite3.Error as error:
                raise ProtoRKDError(
                    f"{self._database} must be a sound and writable database; {error}. Remove it: it is made anew."
                ) from error


def _has_tables(memory: sqlite3.Connection, *, makes_them: bool) -> bool:
    """Make what is missing in a database, or tell that it is missing: no room for it, or not to be changed."""
    if not makes_them:  # it may be from an earlier release
        return all(memory.execute(_IS_THERE, [table.partition(" ")[0]]).fetchone() for table in _TABLES)
    try:
        for table in _TABLES:
            memory.execute(f"CREATE TABLE IF NOT EXISTS {table} WITHOUT ROWID")
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            raise
        return False
    return True


def may_write(path: Path) -> bool:
    """Tell whether a file may be written, or made below the nearest folder that is there; no disk is asked to do so."""
    there = next(place for place in (path, *path.absolute().parents) if place.exists())
    return all(os.access(place, os.W_OK) for place in {there, there if there.is_dir() else there.parent})


def _recaller(memory: sqlite3.Connection | None, num_asked: int) -> _Recall:
    """Make the function that looks up digests: all at once, if many of them will be asked for."""
    if memory is None:
        return lambda _keys: {}
    if num_asked > _FEW:
        [num_known] = memory.execute("SELECT COUNT(*) FROM digests").fetchone()
        if num_known < min(_MOST, _PART * num_asked):
            known = dict(memory.execute("SELECT key, sha256 FROM digests"))
            return lambda _keys: known
    return lambda keys: _recall(memory, keys)


def _recall(memory: sqlite3.Connection, keys: Sequence[bytes]) -> dict[bytes, str]:
    known: dict[bytes, str] = {}
    for start in range(0, len(keys), 500):
        some = keys[start : start + 500]
        marks = ",".join("?" * len(some))
        known.update(memory.execute(f"SELECT key, sha256 FROM digests WHERE key IN ({marks})", some))  # noqa: S608
    return known


def facts_of(stat: os.stat_result) -> int:
    """Return a number that changes with a file's size, time of change or inode, and is never 0; for one run alone."""
    return hash((stat.st_size, stat.st_mtime_ns, stat.st_ino)) or 1


def timeless_devices() -> frozenset[int]:
    """Return the numbers of mounted devices where a file may change while all its times stay: squashfs, FUSE, FAT."""
    return devices_of(_TIMELESS)


class _Seen(NamedTuple):
    """What a look at a file says: the key that its digest is remembered by, its facts, and its device."""

    key: bytes
    facts: int
    device: int


def _look_at(paths: Sequence[Path | str]) -> list[_Seen | None]:
    return [_look(path) for path in paths]


def _look(path: Path | str) -> _Seen | None:
    """Look at a file; its key is of all that changes when its bytes do: place, inode, size and both times."""
    try:
        stat = os.stat(path)  # noqa: PTH116 - twenty thousand Path objects take longer than their stats
    except OSError:
        return None
    facts = (os.path.abspath(path), stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)  # noqa: PTH100
    return _Seen(_key_of(facts), facts_of(stat), stat.st_dev)


def _key_of(facts: object) -> bytes:
    return hashlib.sha256(repr(facts).encode()).digest()[:16]


def _changed_ns(path: Path | str) -> int:
    try:
        stat = Path(path).stat()
    except OSError:
        return time.time_ns()
    return max(stat.st_mtime_ns, stat.st_ctime_ns)


def _hash_or_none(path: Path | str) -> str | None:
    try:
        return hash_file(Path(path))
    except OSError:
        return None
