"""Fetch a manifest from an object store once, to use it as a file."""

from pathlib import Path

from data_schemas.errors import ProtoRKDError
from data_schemas.files import read_json, write_atomic, write_json
from pipeline.remote.cache import ObjectCache
from pipeline.remote.errors import UnmodifiedError
from pipeline.remote.object_store import Objects, url_of


def local_copy(manifest: Path) -> Path:
    """Fetch a manifest that is named by a URL, unless the earlier copy is still current; a path is returned as it is.

    Raises:
        RemoteError: the store does not answer, or refuses.
        ProtoRKDError: there is no such object.
    """
    url = url_of(manifest)
    if url is None:
        return manifest
    folder, _, name = url.rpartition("/")
    path = ObjectCache.of_environment().folder / "manifests" / url.replace("://", "/").rpartition("/")[0] / name
    note = path.with_name(f".{name}.json")
    try:
        answer = Objects(folder).read(name, tag=_tag(path, note))
    except UnmodifiedError:
        return path
    if answer is None:
        raise ProtoRKDError(f"--manifest must name an object that is there; got {url}. Check bucket and key.")
    data, seen = answer
    note.unlink(missing_ok=True)  # no note exists while data and note may differ
    write_atomic(path, data)
    write_json(note, {"tag": seen.tag, "size": seen.size})
    return path


def _tag(path: Path, note: Path) -> str | None:
    try:
        values = read_json(note)
        tag, size = values["tag"], values["size"]
        return tag if isinstance(tag, str) and path.stat().st_size == size else None
    except (ProtoRKDError, OSError, KeyError, TypeError):
        return None
