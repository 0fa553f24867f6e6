"""Locks of runs, which die with their process and name what a run uses."""

import contextlib
import os
import socket
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import filelock

from data_schemas.errors import ProtoRKDError
from data_schemas.files import disk_error, open_lock, read_json, write_json
from pipeline.log import log
from pipeline.store.store import HOLDER_PREFIX, LOCK_PREFIX, Store

_SHARED_MARK = "."  # in the name of the note of one of several holders, between the fingerprint and a name of its own


@dataclass(frozen=True)
class HeldLock:
    """A lock that is held.

    Args:
        waited: Whether another process held it first.
        use: Function that adds a digest to the artifacts that ``gc`` leaves alone.
    """

    waited: bool
    use: Callable[[str], None]


@contextlib.contextmanager
def locked(store: Store, stage: str, fingerprint: str, *, uses: Sequence[str] = ()) -> Iterator[HeldLock]:
    """Hold the lock of one piece of work; wait for its holder, and log who that is.

    Args:
        store: The store that holds the lock.
        stage: Name of the stage.
        fingerprint: Fingerprint of the request.
        uses: Digests of the artifacts that the work reads, so that ``gc`` leaves them alone meanwhile.
    """
    folder = store.root / stage
    waited = False
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(folder / f"{LOCK_PREFIX}{fingerprint}")
        try:
            lock.acquire(timeout=0)
        except filelock.Timeout:
            log.info("%s: waiting for %s, which does the same work", stage, holder(store, stage, fingerprint))
            waited = True
            lock.acquire()
    except OSError as error:
        raise disk_error(folder, error) from error
    try:
        with _noted(folder / f"{HOLDER_PREFIX}{fingerprint}", uses) as use:
            yield HeldLock(waited, use)
    finally:
        lock.release()


@contextlib.contextmanager
def locked_together(
    store: Store, stage: str, fingerprint: str, *, uses: Sequence[str] = (), prepare: Callable[[], None]
) -> Iterator[HeldLock]:
    """Hold the lock of one piece of work beside others that hold it so; who holds it alone is waited for.

    Args:
        store: The store that holds the lock.
        stage: Name of the stage.
        fingerprint: Fingerprint of the request.
        uses: Digests of the artifacts that the work reads, so that ``gc`` leaves them alone meanwhile.
        prepare: Puts in order what dead processes left; called where nobody else holds the lock.

    Raises:
        ProtoRKDError: the system has no such locks, or the folder cannot be written.
    """
    try:
        import fcntl  # absent on Windows
    except ImportError as error:
        raise ProtoRKDError("--join must run on a system with flock; this one has none. Pass --no-join.") from error
    folder = store.root / stage
    with contextlib.ExitStack() as opened:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = open_lock(folder / f"{LOCK_PREFIX}{fingerprint}")
            opened.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waited = not _shares(descriptor)
                if waited:
                    log.info("%s: waiting for %s, which works alone", stage, holder(store, stage, fingerprint))
            else:
                waited = False
                prepare()
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        except OSError as error:
            raise disk_error(folder, error) from error
        note = f"{HOLDER_PREFIX}{fingerprint}{_SHARED_MARK}"
        with _noted(folder / f"{note}{uuid.uuid4().hex[:12]}", uses) as use:
            yield HeldLock(waited, use)
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for path in folder.glob(f"{note}*"):  # of killed ones, for the last has come to its end
                path.unlink(missing_ok=True)


def _shares(descriptor: int) -> bool:
    """Try to hold a lock beside others; false where one holds it alone."""
    import fcntl

    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextlib.contextmanager
def _noted(path: Path, uses: Sequence[str]) -> Iterator[Callable[[str], None]]:
    """Note who works, and on what, in a file that goes in the end; yield what adds a digest to it."""
    who = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%H:%M:%S")}
    who["begun"] = datetime.now(UTC).isoformat(timespec="microseconds")
    used = dict.fromkeys(uses)

    def use(digest: str) -> None:
        if digest not in used:
            used[digest] = None
            write_json(path, {**who, "uses": list(used)})

    write_json(path, {**who, "uses": list(used)})
    try:
        yield use
    finally:
        path.unlink(missing_ok=True)


def holder(store: Store, stage: str, fingerprint: str) -> str:
    """Describe who holds the lock, for a message."""
    try:
        who = read_json(store.root / stage / f"{HOLDER_PREFIX}{fingerprint}")
        return f"process {who['pid']} on {who['host']} (since {who['since']})"
    except (ProtoRKDError, KeyError, TypeError):
        return "another process"


def begun(store: Store, stage: str, fingerprint: str) -> str:
    """Return when the work was last begun, in UTC as records have it, by the note of who holds or held its lock.

    Work that was stopped, not killed, leaves no note: there the draft says when it last changed.
    """
    with contextlib.suppress(ProtoRKDError, KeyError, TypeError):
        return str(read_json(store.root / stage / f"{HOLDER_PREFIX}{fingerprint}")["begun"])
    with contextlib.suppress(OSError):
        changed = store.draft_folder(stage, fingerprint).stat().st_mtime
        return datetime.fromtimestamp(changed, UTC).isoformat(timespec="microseconds")
    return ""


def digests_in_use(store: Store) -> set[str]:
    """Return the digests of the artifacts that live processes read."""
    used: set[str] = set()
    for path in store.root.glob(f"*/{HOLDER_PREFIX}*"):
        if is_held(store, path.parent.name, path.name.removeprefix(HOLDER_PREFIX).partition(_SHARED_MARK)[0]):
            with contextlib.suppress(ProtoRKDError, KeyError, TypeError):
                used |= set(read_json(path)["uses"])
    return used


def is_held(store: Store, stage: str, fingerprint: str) -> bool:
    """Tell whether a live process holds the lock of this work."""
    path = store.root / stage / f"{LOCK_PREFIX}{fingerprint}"
    if not path.exists():
        return False
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        return True
    except OSError:  # the store may only be read
        return _is_held_by_a_writer(path, store.root / stage / f"{HOLDER_PREFIX}{fingerprint}")
    lock.release()
    return False


def _is_held_by_a_writer(lock: Path, holder_path: Path) -> bool:
    """Look at a lock that may only be read; where that says nothing, the note of its holder counts."""
    try:
        import fcntl  # absent on Windows

        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except (OSError, ImportError):
        return holder_path.exists()
    return False
