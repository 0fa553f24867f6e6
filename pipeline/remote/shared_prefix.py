"""Where the processes of a joint run meet in an object store."""

import contextlib
from pathlib import Path

from data_schemas.errors import ProtoRKDError
from data_schemas.files import FileEntry
from pipeline.remote.object_store import Objects
from pipeline.store.store import JOINT_NAME


class SharedPrefix:
    """A place below a prefix, as `SharedPlace` describes it; its files are published by copies within the store.

    It lies among the artifact's files, where ``gc`` finds what nobody has written into for a day.

    Args:
        objects: The object store.
        prefix: Prefix of the place.
    """

    keeps_files = True

    def __init__(self, objects: Objects, prefix: str) -> None:
        self._objects, self._prefix = objects, prefix

    def create(self, key: str, data: bytes) -> bool:
        """Write a record by a request that fails where one is."""
        return self._objects.create(f"{self._prefix}/{key}", data) is not None

    def write(self, key: str, data: bytes) -> None:
        """Write a record that only its owner writes."""
        self._objects.write(f"{self._prefix}/{key}", data)

    def read(self, key: str) -> bytes | None:
        """Read a record; None where there is none."""
        answer = self._objects.read(f"{self._prefix}/{key}")
        return None if answer is None else answer[0]

    def names(self, folder: str) -> set[str]:
        """List the names of a folder's records."""
        return set(self.tags(folder))

    def tags(self, folder: str) -> dict[str, str]:
        """List a folder's records with their tags: one request for each thousand."""
        _, objects = self._objects.list_folder(f"{self._prefix}/{folder}")
        return {each.key.rpartition("/")[2]: f"{each.tag} {each.modified.isoformat()}" for each in objects}

    def remove(self, key: str) -> None:
        """Delete a record."""
        self._objects.remove([f"{self._prefix}/{key}"])

    def file_key(self, entry: FileEntry) -> str:
        """Return the key of a file."""
        return f"{self._prefix}/files/{entry.sha256}"

    def put(self, entry: FileEntry, root: Path) -> None:
        """Upload a file under the name of its bytes; the one here is needed no more."""
        self._objects.upload(self.file_key(entry), entry, root)
        (root / entry.path).unlink()

    def bring(self, entry: FileEntry, root: Path) -> None:
        """Download a file."""
        self._objects.download(self.file_key(entry), entry, root)

    def siblings(self) -> set[str]:
        """Name the prefixes beside this one that are places, too."""
        folder, _, name = self._prefix.rpartition("/")
        return {each for each in self._objects.list_folder(folder)[0] if each.startswith(JOINT_NAME)} - {name}

    def clear(self) -> None:
        """Delete everything; what cannot be deleted now is left to ``gc``."""
        with contextlib.suppress(ProtoRKDError):
            self._objects.remove([found.key for found in self._objects.below(self._prefix)])
