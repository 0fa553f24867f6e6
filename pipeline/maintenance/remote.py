"""What verify and gc do in the object store behind a store; nothing for a local store."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from data_schemas.artifact_record import RECORD_NAME
from pipeline.maintenance.repair import Repair, repair, set_aside, set_record_aside, untrusted
from pipeline.remote.object_store import ObjectInfo
from pipeline.remote.records import files_folder
from pipeline.remote.remote_store import ABANDONED, FINGERPRINT, RemoteStore
from pipeline.stage import Context
from pipeline.store.store import Artifact, Store


@dataclass(frozen=True)
class Abandoned:
    """Files of an object store that no record names.

    Args:
        folder: Folder of the files.
        keys: Keys of the objects.
        size: Bytes of all objects together.
        written: Time at which the last of them was written.
    """

    folder: str
    keys: tuple[str, ...]
    size: int
    written: datetime

    @property
    def is_old(self) -> bool:
        """Whether no upload can still be writing them."""
        return datetime.now(UTC) - self.written > ABANDONED


def is_here(store: Store, artifact: Artifact) -> bool:
    """Tell whether an artifact's files are at its path, without looking at their content."""
    return not isinstance(store, RemoteStore) or store.is_here(artifact)


def remark(store: Store, artifact: Artifact) -> str:
    """Say where an artifact is, if that is worth a word."""
    return store.remark(artifact) if isinstance(store, RemoteStore) else ""


def remote_problems(store: Store, artifact: Artifact) -> dict[str, str]:
    """Read all objects of an artifact; name those that are not as written."""
    return store.remote_problems(artifact) if isinstance(store, RemoteStore) else {}


def repair_everywhere(
    artifact: Artifact,
    here: Mapping[str, str],
    there: Mapping[str, str],
    *,
    context: Context,
    trust_code: bool = False,
) -> Repair:
    """Make an artifact whole: from an intact copy, here or in the object store, or else anew.

    Args:
        artifact: The damaged artifact.
        here: What is wrong with the local copy, by path.
        there: What is wrong with the objects, by path.
        context: The store, and the stages that can be run again.
        trust_code: Whether the user lets code that comes with an input run.
    """
    store = context.store
    if not isinstance(store, RemoteStore):
        return repair(artifact, here, context=context, trust_code=trust_code)
    store.check_writable()
    there = {**there, **_written_so(artifact, here)}
    if there and not here and store.is_here(artifact) and store.upload_again(artifact, there):
        return Repair({}, "")
    moved = {}
    if here and not there and store.is_there(artifact):
        moved = set_aside(store, artifact, here)
        store.fetch(artifact)
        return Repair(moved, "")
    digested = {file.path for file in artifact.record.digested_files}
    if there and not store.is_here(artifact) and not there.keys() & digested:
        store.fetch(artifact)  # without the lost logs
    problem = "" if trust_code else untrusted(artifact.record, {**there, **here}, context)
    if problem and (here or not store.is_here(artifact)):
        return Repair(moved, problem)
    if place := store.withdraw(artifact.path):
        moved = {store.objects.place(artifact.name): place}
    if store.is_here(artifact) and not here:
        store.share(store.fetch(artifact))
        return Repair({}, "")
    done = repair(artifact, here, context=context, trust_code=trust_code)
    return Repair({**moved, **done.set_aside}, done.problem)


def _written_so(artifact: Artifact, here: Mapping[str, str]) -> dict[str, str]:
    """Choose the problems of files that have the bytes that were written: the objects have them, too."""
    entries = {file.path: file for file in artifact.record.files}
    return {
        path: problem
        for path, problem in here.items()
        if path in entries and not entries[path].problem(artifact.path, read=True)
    }


def set_any_record_aside(folder: Path, *, store: Store) -> Path:
    """Set aside a record that cannot be read, in the object store if it is there."""
    place = store.withdraw(folder) if isinstance(store, RemoteStore) else None
    return place or set_record_aside(folder, store=store)


def abandoned_files(store: Store) -> list[Abandoned]:
    """Find the files in the object store that no record names, the oldest first.

    Raises:
        RemoteError: a record cannot be read, so that it is not known which files it names.
    """
    if not isinstance(store, RemoteStore):
        return []
    records, broken = store.records.survey(None)
    if broken:
        raise next(iter(broken.values()))
    named = {files_folder(each.record) for each in records}
    gathered: dict[str, list[ObjectInfo]] = {}
    for file in store.objects.below():
        parts = file.key.split("/")
        if len(parts) > 3 and FINGERPRINT.fullmatch(parts[1]) and "/".join(parts[:3]) not in named:
            gathered.setdefault("/".join(parts[:3]), []).append(file)
    abandoned = [
        Abandoned(
            folder,
            tuple(file.key for file in files),
            sum(file.size for file in files),
            max(file.modified for file in files),
        )
        for folder, files in gathered.items()
    ]
    return sorted(abandoned, key=lambda each: each.written)


def remove_abandoned(store: Store, abandoned: Sequence[Abandoned]) -> None:
    """Delete files that no record names."""
    if isinstance(store, RemoteStore):
        store.objects.remove([key for each in abandoned for key in each.keys])


def remote_size(store: Store, path: Path) -> int:
    """Return the bytes of an artifact that is only in the object store."""
    if not isinstance(store, RemoteStore) or (path / RECORD_NAME).exists():
        return 0
    known = store.records.known(path.parent.name, path.name)
    return known.record.size if known else 0
