"""An artifact in the making: a locked folder with a journal of whole files, renamed into place at the end."""

import contextlib
import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path, PurePosixPath

from data_schemas.artifact_record import JOURNAL_NAME, LOG_FOLDER, RECORD_NAME, ArtifactRecord
from data_schemas.errors import NewerRecordError, ProtoRKDError
from data_schemas.files import (
    PARTIAL_SUFFIX,
    FileEntry,
    append_line,
    disk_errors,
    fsync,
    fsync_all,
    list_files,
)
from pipeline.fingerprint import digest_of_files
from pipeline.store.shards import Joint, Look, MadeByOthersError, OwnShards, ShardQueue
from pipeline.store.store import JOINT_NAME, OLD_PREFIX, Store

STATE_FOLDER = "state"


class Draft:
    """The folder that a stage writes into. Made by `open_draft`, which holds the lock.

    A stage reports each whole file with `adopt`; after a kill, `is_whole` tells which of these are still intact.

    Args:
        path: Path of the folder.
        resumed: Whether an earlier run left something here, or others take part in this one.
        joint: This process's part in a joint run, or None.
    """

    def __init__(self, path: Path, *, resumed: bool, joint: Joint | None = None) -> None:
        self.path = path
        self.resumed = resumed
        self.joint = joint
        self._elsewhere: dict[str, FileEntry] = {}
        self._entries = read_journal(path / JOURNAL_NAME)
        self._seen_whole: set[str] = set()

    @property
    def state(self) -> Path:
        """Folder for what only a resume needs; it does not become part of the artifact."""
        return self.path / STATE_FOLDER

    @property
    def logs(self) -> Path:
        """Folder for files that hold times; it becomes part of the artifact, not of its digest."""
        return self.path / LOG_FOLDER

    @property
    def adopted(self) -> list[FileEntry]:
        """Files that this run or an earlier one adopted, by path."""
        return [self._entries[path] for path in sorted(self._entries)]

    def shards(self, files: Sequence[tuple[str, ...]], look: Look) -> ShardQueue:
        """Open the shards of the draft, once all that they depend on is adopted; who joins the run shares them.

        Args:
            files: Files of each shard, relative to the draft.
            look: Returns the facts of a shard whose files have the bytes that were written, or None where it must be
                written anew.
        """
        if self.joint is None:
            return OwnShards(self, files, look)
        return self.joint.shards(self, files, look, left=Draft(self.joint.folder, resumed=True))

    def adopt(self, path: str) -> FileEntry:
        """Note in the journal that the file ``path``, relative to the draft, is whole; return what it is."""
        entry = FileEntry.of(self.path, path)
        append_line(self.path / JOURNAL_NAME, json.dumps(asdict(entry), sort_keys=True))
        self._entries[path] = entry
        self._seen_whole.add(path)
        return entry

    def knows(self, entry: FileEntry) -> bool:
        """Tell whether the last file adopted under its path is this one."""
        return self._entries.get(entry.path) == entry

    def note_elsewhere(self, entry: FileEntry) -> None:
        """Count a file as one of the artifact's that is published from another place."""
        self._elsewhere[entry.path] = entry

    def was_adopted(self, path: str) -> bool:
        """Tell whether this run or an earlier one adopted a file of this name, whatever its bytes are now."""
        return path in self._entries

    def is_whole(self, path: str) -> bool:
        """Tell whether the file was adopted and still has the same bytes."""
        entry = self._entries.get(path)
        whole = entry is not None and entry.problem(self.path, read=True) is None
        (self._seen_whole.add if whole else self._seen_whole.discard)(path)
        return whole

    def clear(self) -> None:
        """Remove everything, and start from nothing."""
        if self.path.exists():
            shutil.rmtree(self.path)
        self.path.mkdir(parents=True)
        self._entries = {}
        self._seen_whole = set()
        self.resumed = False

    def discard_if_empty(self) -> None:
        """Remove the folder when nothing in it would spare a later run any work; a joint run's goes when it is left."""
        if self.joint is None and not self._entries and not any(path.is_file() for path in self.state.rglob("*")):
            shutil.rmtree(self.path)

    def seal(self, record: ArtifactRecord) -> ArtifactRecord:
        """Complete ``record`` with the files and their digest, and write it as the last file of the folder."""
        entries = []
        for path in list_files(self.path):
            if path == RECORD_NAME or path.startswith(f"{STATE_FOLDER}/"):
                continue
            # A file that an earlier run adopted may have been written again: only this run's checks count.
            known = self._entries[path] if path in self._seen_whole else None
            entries.append(
                known if known and not known.problem(self.path, read=False) else FileEntry.of(self.path, path)
            )
        folders = {folder for entry in entries for folder in PurePosixPath(entry.path).parents}
        fsync_all([*(self.path / entry.path for entry in entries), *(self.path / folder for folder in folders)])
        entries = sorted([*entries, *self._elsewhere.values()], key=lambda entry: entry.path)
        sealed = replace(record, files=tuple(entries))
        sealed = replace(sealed, digest=digest_of_files(sealed.digested_files))
        sealed.write(self.path)
        return sealed


def open_draft(store: Store, stage: str, fingerprint: str, *, fresh: bool = False) -> Draft:
    """Open the draft of work whose lock is held; a damaged artifact becomes its draft, so that its good files serve.

    Args:
        store: The store to write to.
        stage: Name of the stage.
        fingerprint: Fingerprint of the request.
        fresh: Take over nothing; an existing artifact stays until the new one is whole.

    Raises:
        NewerRecordError: a newer protorkd made the artifact.
        ProtoRKDError: the folder cannot be written.
    """
    path = store.draft_folder(stage, fingerprint)
    final = store.folder(stage, fingerprint)
    with disk_errors(path):
        if fresh and path.exists():
            store.remove(path)
        elif not fresh and final.exists():
            _demote(final, path)
        resumed = path.is_dir() and any(path.iterdir())
        path.mkdir(parents=True, exist_ok=True)
        for partial in list(path.rglob(f"*{PARTIAL_SUFFIX}")):
            partial.unlink()
    return Draft(path, resumed=resumed)


def open_joint(store: Store, stage: str, fingerprint: str) -> Joint:
    """Open a process's part in the run of a request that several processes share.

    Args:
        store: The store to write to.
        stage: Name of the stage.
        fingerprint: Fingerprint of the request.
    """
    return Joint(
        store.draft_folder(stage, fingerprint),
        open_place=lambda key: store.shared_place(stage, fingerprint, key),
        is_made=lambda: store.is_made(stage, fingerprint),
    )


def is_joint(store: Store, stage: str, fingerprint: str) -> bool:
    """Tell whether several processes have begun to make an artifact together, as far as that is known here."""
    return (store.draft_folder(stage, fingerprint) / JOINT_NAME).is_dir()


def commit(store: Store, draft: Draft, record: ArtifactRecord) -> ArtifactRecord:
    """Move a finished draft into its place; an existing artifact is replaced.

    Raises:
        MadeByOthersError: the run is a joint one, and another process was quicker: its artifact stays.
    """
    with disk_errors(draft.path):
        sealed = draft.seal(record)
    if draft.joint is None:
        publish(store, draft.path, sealed)
        return sealed
    shutil.rmtree(draft.state, ignore_errors=True)
    if not store.publish_first(draft.path, sealed, place=draft.joint.place):
        raise MadeByOthersError
    return sealed


def publish(store: Store, draft_path: Path, record: ArtifactRecord) -> None:
    """Rename a sealed draft into its place, without what only a resume needs.

    Raises:
        ProtoRKDError: the folder cannot be written.
    """
    final = store.folder(record.stage, record.fingerprint)
    with disk_errors(final):
        shutil.rmtree(draft_path / STATE_FOLDER, ignore_errors=True)
        fsync(draft_path)  # otherwise a power cut might bring the state back, inside the artifact
        old = final.with_name(f"{OLD_PREFIX}{final.name}")
        if old.exists():
            shutil.rmtree(old)
        if final.exists():
            final.rename(old)
        draft_path.rename(final)
        fsync(final.parent)
        if old.exists():
            shutil.rmtree(old)


def _demote(final: Path, draft_path: Path) -> None:
    """Turn a damaged artifact back into a draft; its journal and its record tell what was whole."""
    outputs: tuple[FileEntry, ...] = ()
    try:
        outputs = ArtifactRecord.read(final).digested_files
    except NewerRecordError:
        raise
    except ProtoRKDError:
        pass
    if draft_path.exists():
        shutil.rmtree(draft_path)
    with contextlib.suppress(ProtoRKDError):
        known = read_journal(final / JOURNAL_NAME)
        for entry in outputs:
            if known.get(entry.path) != entry:
                append_line(final / JOURNAL_NAME, json.dumps(asdict(entry), sort_keys=True))
    (final / RECORD_NAME).unlink(missing_ok=True)
    final.rename(draft_path)
    fsync(final.parent)


def read_journal(path: Path) -> dict[str, FileEntry]:
    """Read the last entry of each file; a torn line counts for nothing."""
    entries: dict[str, FileEntry] = {}
    if path.exists():
        for line in path.read_bytes().splitlines():
            try:
                entry = FileEntry(**json.loads(line))
            except (ValueError, TypeError):
                continue
            entries[entry.path] = entry
    return entries
