"""``export.json``: what an export is made from and which files it has, by which a copy of one is known."""

from pathlib import Path
from typing import Any

from data_schemas.errors import ProtoRKDError
from data_schemas.files import FileEntry, list_files, read_json, write_json

MANIFEST_NAME = "export.json"

_SCHEMA_VERSION = 1


def write_manifest(root: Path, *, lineage: dict[str, Any], formats: tuple[str, ...]) -> list[FileEntry]:
    """List every file of an export, as the last of them, and return the list.

    Args:
        root: the export's folder.
        lineage: of the model.
        formats: that it has.
    """
    entries = [FileEntry.of(root, path) for path in list_files(root)]
    files = {entry.path: {"size": entry.size, "sha256": entry.sha256} for entry in entries}
    manifest = {"schema_version": _SCHEMA_VERSION, "formats": list(formats), "lineage": lineage, "files": files}
    write_json(root / MANIFEST_NAME, manifest)
    return entries


def changes(root: Path) -> dict[str, str]:
    """Say what of a folder is not as an export wrote it; nothing, if it is an export that nobody has changed.

    Args:
        root: a folder with ``export.json``.

    Returns:
        Path to what is wrong with it.
    """
    try:
        files = read_json(root / MANIFEST_NAME)["files"]
        entries = [FileEntry(path, entry["size"], entry["sha256"]) for path, entry in files.items()]
    except (ProtoRKDError, KeyError, TypeError, AttributeError):
        return {MANIFEST_NAME: "cannot be read"}
    found = {entry.path: entry.problem(root, read=True) for entry in entries}
    known = {*files, MANIFEST_NAME}
    found |= {path: "is not in export.json" for path in list_files(root) if path not in known}
    return {path: problem for path, problem in found.items() if problem}
