"""Where the processes of a joint run meet: small records and whole files, in a shared folder or an object store."""

import shutil
from pathlib import Path
from typing import Protocol

from data_schemas.files import FileEntry, create_whole, disk_errors, fsync, link_whole, write_atomic


class SharedPlace(Protocol):
    """Records by key, ``folder/name``, and files by their SHA-256. All that it must do atomically is `create`."""

    keeps_files: bool
    """Whether the artifact is published from the files in the place, which no process then needs to have."""

    def create(self, key: str, data: bytes) -> bool:
        """Write a record where there is none; tell whether this call did. Of several at once, one does."""

    def write(self, key: str, data: bytes) -> None:
        """Write a record that only its owner writes."""

    def read(self, key: str) -> bytes | None:
        """Read a record; None where there is none."""

    def names(self, folder: str) -> set[str]:
        """List the names of a folder's records."""

    def tags(self, folder: str) -> dict[str, str]:
        """List a folder's records with something that changes with their bytes."""

    def remove(self, key: str) -> None:
        """Delete a record; none is no error."""

    def put(self, entry: FileEntry, root: Path) -> None:
        """Keep the file that ``entry`` names below ``root`` for all; one with these bytes may be there already.

        Where the place keeps files, the one below ``root`` goes.
        """

    def bring(self, entry: FileEntry, root: Path) -> None:
        """Put a file in its place below ``root``, where the place does not keep files."""

    def siblings(self) -> set[str]:
        """Name the places of the same request with other keys."""

    def clear(self) -> None:
        """Remove everything."""


class SharedFolder:
    """A place in a folder that all processes see, with hard links in place of copies of files.

    Args:
        root: Folder of the place.
    """

    keeps_files = False

    def __init__(self, root: Path) -> None:
        self._root = root

    def create(self, key: str, data: bytes) -> bool:
        """Write a record where there is none, by a link: it is there whole or not at all."""
        return create_whole(self._root / key, data)

    def write(self, key: str, data: bytes) -> None:
        """Write a record that only its owner writes."""
        write_atomic(self._root / key, data)

    def read(self, key: str) -> bytes | None:
        """Read a record; None where there is none."""
        try:
            return (self._root / key).read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def names(self, folder: str) -> set[str]:
        """List the names of a folder's records; hidden ones are being written."""
        try:
            return {path.name for path in (self._root / folder).iterdir() if not path.name.startswith(".")}
        except (FileNotFoundError, NotADirectoryError):
            return set()

    def tags(self, folder: str) -> dict[str, str]:
        """Read a folder's records: on NFS an opened file is asked for at the server, its times may be remembered."""
        read = {name: self.read(f"{folder}/{name}") for name in self.names(folder)}
        return {name: data.decode(errors="replace") for name, data in read.items() if data is not None}

    def remove(self, key: str) -> None:
        """Delete a record."""
        (self._root / key).unlink(missing_ok=True)

    def put(self, entry: FileEntry, root: Path) -> None:
        """Link the file under the name of its bytes."""
        path = self._root / "files" / entry.sha256
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            fsync(root / entry.path)
            link_whole(root / entry.path, path)
            fsync(path.parent)

    def bring(self, entry: FileEntry, root: Path) -> None:
        """Link the file back."""
        path = root / entry.path
        with disk_errors(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            path.unlink(missing_ok=True)
            link_whole(self._root / "files" / entry.sha256, path)

    def siblings(self) -> set[str]:
        """Name the folders beside this one; each holds leases, as no other folder there does."""
        return {path.parent.name for path in self._root.parent.glob("*/leases")} - {self._root.name}

    def clear(self) -> None:
        """Remove the folder; who writes into it meanwhile is late, and finds the artifact made."""
        shutil.rmtree(self._root, ignore_errors=True)
