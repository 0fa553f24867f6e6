"""Locks of runs, which die with their process and name what a run uses."""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import filelock

from data_schemas.errors import ProtoRKDError
from data_schemas.files import (
    disk_error,
    read_json,
    write_json,
)
from pipeline.log import log
from pipeline.store.store import HOLDER_PREFIX, LOCK_PREFIX, Store


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
    holder_path = folder / f"{HOLDER_PREFIX}{fingerprint}"
    try:
        who = {"pid": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%H:%M:%S")}
        who["begun"] = datetime.now(UTC).isoformat(timespec="microseconds")
        used = dict.fromkeys(uses)

        def use(digest: str) -> None:
            if digest not in used:
                used[digest] = None
                write_json(holder_path, {**who, "uses": list(used)})

        write_json(holder_path, {**who, "uses": list(used)})
        yield HeldLock(waited, use)
    finally:
        holder_path.unlink(missing_ok=True)
        lock.release()


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
        if is_held(store, path.parent.name, path.name.removeprefix(HOLDER_PREFIX)):
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
