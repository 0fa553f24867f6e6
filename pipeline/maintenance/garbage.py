"""Find what gc removes, and look again before each removal without reading every record again."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

from data_schemas.errors import NewerRecordError, ProtoRKDError
from pipeline.remote.remote_store import RemoteStore
from pipeline.store.locks import digests_in_use, is_held
from pipeline.store.store import ASKED_PREFIX, LOCK_PREFIX, Artifact, Store

_Entries = dict[str, tuple[int, int]]


class Garbage:
    """The folders of a store that nothing refers to, as of the last look.

    Whatever could bring one of them into use shows in the names of the store: a commit, a draft, or the note of a run
    that says what it reads. Only where these have changed are records read again.

    Args:
        store: The store to look in.
        kept_stages: Stages whose artifacts stay though nothing refers to them.
        drop: Artifacts to remove even if they would stay.

    Raises:
        ProtoRKDError: as `find_garbage`.
    """

    def __init__(self, store: Store, *, kept_stages: Sequence[str], drop: Sequence[Path] = ()) -> None:
        self._store, self._kept_stages, self._drop = store, kept_stages, drop
        self._entries: _Entries = {}
        self.paths: list[Path] = []
        self._look()

    def remove(self, path: Path) -> bool:
        """Remove a folder, unless something has come to use it, or has removed it; tell whether it was removed.

        Raises:
            ProtoRKDError: as `find_garbage`.
            OSError: it cannot be removed.
        """
        if isinstance(self._store, RemoteStore) or _entries(self._store) != self._entries:
            self._look()
        if path not in self._unused:
            return False
        self._store.remove(path)
        self._unused.discard(path)
        for gone in (path, path.with_name(f"{ASKED_PREFIX}{path.name}")):
            self._entries.pop(str(gone), None)
        return True

    def _look(self) -> None:
        self._entries = _entries(self._store)  # first: what changes while records are read is seen by the next look
        self.paths = find_garbage(self._store, kept_stages=self._kept_stages, drop=self._drop)
        self._unused = set(self.paths)


def find_garbage(store: Store, *, kept_stages: Sequence[str], drop: Sequence[Path] = ()) -> list[Path]:
    """Find the folders that ``gc`` removes.

    Args:
        store: The store to look in.
        kept_stages: Stages whose artifacts stay though nothing refers to them.
        drop: Artifacts to remove even if they would stay.

    Raises:
        ProtoRKDError: something that stays was made from an artifact to be dropped, or a record cannot be read.
    """
    artifacts, damaged = store.survey()
    if damaged:  # its sources are not known
        raise min(damaged.values(), key=lambda error: not isinstance(error, NewerRecordError))
    newest = {artifact.record.stage: artifact.path for artifact in artifacts if artifact.path not in drop}
    roots = [
        artifact
        for artifact in artifacts
        if artifact.path not in drop
        and (artifact.record.stage in kept_stages or newest.get(artifact.record.stage) == artifact.path)
    ]
    live = _reached(artifacts, roots, digests_in_use(store))
    for artifact in artifacts:
        if artifact.path in drop and artifact.record.digest in live:
            raise ProtoRKDError(
                f"--drop must name an artifact that nothing was made from; got {artifact.name}. "
                "Drop what was made from it as well."
            )
    unheld = [path for path in store.leftovers() if not is_live(store, path)]
    return unheld + [artifact.path for artifact in artifacts if artifact.record.digest not in live]


def is_live(store: Store, path: Path) -> bool:
    """Tell whether a live process works on a folder of the store."""
    return is_held(store, path.parent.name, path.name.rpartition("-")[2])


def _reached(artifacts: Sequence[Artifact], roots: Sequence[Artifact], used: set[str]) -> set[str]:
    """Return the digests of roots, of what live processes use, and of all that these were made from."""
    by_digest: dict[str, list[Artifact]] = {}
    for artifact in artifacts:
        by_digest.setdefault(artifact.record.digest, []).append(artifact)
    live = used | {artifact.record.digest for artifact in roots}
    queue = [artifact for digest in live for artifact in by_digest.get(digest, ())]
    for artifact in queue:  # grows while it is walked
        for digest in {*(entry.digest for entry in artifact.record.inputs.values()), *artifact.record.uses} - live:
            live.add(digest)
            queue += by_digest.get(digest, ())
    return live


def _entries(store: Store) -> _Entries:
    """List what lies in the folders of the stages, but for locks: paths with inodes, and times of hidden ones.

    A note is written anew in place of an old one, and may get the inode of one before.
    """
    entries: _Entries = {}
    with contextlib.suppress(FileNotFoundError), os.scandir(store.root) as folders:
        for folder in folders:
            if not folder.name.startswith(".") and folder.is_dir():
                with os.scandir(folder) as found:
                    for entry in found:
                        if not entry.name.startswith("."):
                            entries[entry.path] = entry.inode(), 0
                        elif not entry.name.startswith(LOCK_PREFIX):
                            with contextlib.suppress(FileNotFoundError):
                                entries[entry.path] = entry.inode(), entry.stat().st_mtime_ns
    return entries
