"""What verify and gc do about the object store behind a store; nothing where there is none."""

from collections.abc import Mapping
from pathlib import Path

from data_schemas.artifact_record import RECORD_NAME
from pipeline.remote_store import Abandoned, RemoteStore
from pipeline.repair import Repair, repair, set_aside, set_record_aside
from pipeline.stage import Context
from pipeline.store import Artifact, Store


def is_here(store: Store, artifact: Artifact) -> bool:
    """Whether an artifact's files are at its path, as far as one sees without looking at them."""
    return not isinstance(store, RemoteStore) or store.is_here(artifact)


def remark(store: Store, artifact: Artifact) -> str:
    """Say where an artifact is, if that is worth a word."""
    return store.remark(artifact) if isinstance(store, RemoteStore) else ""


def remote_problems(store: Store, artifact: Artifact) -> dict[str, str]:
    """Read an artifact's objects whole; name those that are not as written."""
    return store.remote_problems(artifact) if isinstance(store, RemoteStore) else {}


def repair_everywhere(
    artifact: Artifact, here: Mapping[str, str], there: Mapping[str, str], *, context: Context
) -> Repair:
    """Make an artifact whole: from the copy that is, here or in the object store; else anew.

    Args:
        artifact: damaged.
        here: what is wrong with the local copy.
        there: what is wrong with the objects.
        context: the store; its stages are those that can be run again.
    """
    store = context.store
    if not isinstance(store, RemoteStore):
        return repair(artifact, here, context=context)
    if there and not here and store.is_here(artifact):
        store.upload_again(artifact, there)
        return Repair({}, "")
    moved = {}
    if here and not there and store.is_there(artifact):
        moved = set_aside(store, artifact, here)
        store.fetch(artifact)
        return Repair(moved, "")
    digested = {file.path for file in artifact.record.digested_files}
    if there and not store.is_here(artifact) and not there.keys() & digested:
        store.fetch(artifact)  # without the logs that are lost
    if place := store.withdraw(artifact.path):
        moved = {store.objects.place(artifact.name): place}
    if store.is_here(artifact) and not here:
        store.share(artifact)
        return Repair({}, "")
    done = repair(artifact, here, context=context)
    return Repair({**moved, **done.set_aside}, done.problem)


def set_any_record_aside(folder: Path, *, store: Store) -> Path:
    """Set aside a record that cannot be read, in the object store if it is there."""
    place = store.withdraw(folder) if isinstance(store, RemoteStore) else None
    return place or set_record_aside(folder, store=store)


def abandoned_files(store: Store) -> list[Abandoned]:
    """Files in the object store that no record names."""
    return store.abandoned() if isinstance(store, RemoteStore) else []


def remove_abandoned(store: Store, abandoned: list[Abandoned]) -> None:
    """Delete files that no record names."""
    if isinstance(store, RemoteStore):
        store.remove_abandoned(abandoned)


def remote_size(store: Store, path: Path) -> int:
    """Bytes of an artifact that is in the object store alone."""
    if not isinstance(store, RemoteStore) or (path / RECORD_NAME).exists():
        return 0
    known = store.records.known(path.parent.name, path.name)
    return known.record.size if known else 0
