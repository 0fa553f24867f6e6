"""``export.json``: the origin and the files of an export, by which copies are recognised."""

from pathlib import Path
from typing import Any

from data_schemas.errors import ProtoRKDError
from data_schemas.files import FileEntry, list_files, read_json, write_json

MANIFEST_NAME = "export.json"

_SCHEMA_VERSION = 1


def write_manifest(root: Path, *, lineage: dict[str, Any], formats: tuple[str, ...]) -> list[FileEntry]:
    """Write the list of an export's files, as its last file, and return the list.

    Args:
        root: Folder of the export.
        lineage: Origin of the model.
        formats: Formats of the export.
    """
    entries = [FileEntry.of(root, path) for path in list_files(root)]
    files = {entry.path: {"size": entry.size, "sha256": entry.sha256} for entry in entries}
    manifest = {"schema_version": _SCHEMA_VERSION, "formats": list(formats), "lineage": lineage, "files": files}
    write_json(root / MANIFEST_NAME, manifest)
    return entries


def changes(root: Path) -> dict[str, str]:
    """Return the changes to an export's folder since it was written; empty if there are none.

    Args:
        root: Folder with ``export.json``.

    Returns:
        What is wrong with each changed file, by path.
    """
    try:
        files = read_json(root / MANIFEST_NAME)["files"]
        entries = [FileEntry(path, entry["size"], entry["sha256"]) for path, entry in files.items()]
    except (ProtoRKDError, KeyError, TypeError, AttributeError):
        return {MANIFEST_NAME: "cannot be read"}
    problems = {entry.path: entry.problem(root, read=True) for entry in entries}
    known = {*files, MANIFEST_NAME}
    problems |= {path: "is not in export.json" for path in list_files(root) if path not in known}
    return {path: problem for path, problem in problems.items() if problem}
