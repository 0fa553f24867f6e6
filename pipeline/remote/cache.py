"""A cache of objects on this machine's disk, up to a size that the environment sets."""

import contextlib
import hashlib
import os
import random
import uuid
from dataclasses import dataclass
from pathlib import Path

from data_schemas.errors import ProtoRKDError

FOLDER_VARIABLE = "PROTORKD_OBJECT_CACHE"
SIZE_VARIABLE = "PROTORKD_OBJECT_CACHE_GB"
DEFAULT_GB = 10.0
_NUM_PARTS = 256  # folders, each of which is tidied by itself
_LOOK_EVERY = 32  # average number of writes into a folder before it is tidied


@dataclass(frozen=True)
class ObjectCache:
    """Bytes by name. Any process may write or remove any entry at any time; readers must verify what they read.

    Args:
        folder: Folder of the cache.
        max_bytes: Approximate size of the whole cache: the oldest entries are removed. 0 keeps nothing.
    """

    folder: Path
    max_bytes: int

    @classmethod
    def of_environment(cls) -> "ObjectCache":
        """Make the cache that the environment names.

        Raises:
            ProtoRKDError: its size is no number.
        """
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = Path(os.environ.get(FOLDER_VARIABLE) or home / "protorkd" / "objects")
        text = os.environ.get(SIZE_VARIABLE) or str(DEFAULT_GB)
        try:
            max_bytes = int(float(text) * 1e9)
        except (ValueError, OverflowError) as error:
            raise ProtoRKDError(
                f"{SIZE_VARIABLE} must be a number of gigabytes; got {text!r}. 0 keeps none."
            ) from error
        return cls(folder.absolute(), max_bytes)

    def read(self, name: str) -> bytes | None:
        """Return what was kept under a name, or None."""
        if not self.max_bytes:
            return None
        try:
            return self._path(name).read_bytes()
        except OSError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Keep bytes under a name; if the disk does not take them, they are not kept."""
        if len(data) > self.max_bytes // _NUM_PARTS:
            return
        path = self._path(name)
        partial = path.with_name(f".{uuid.uuid4().hex}")
        with contextlib.suppress(OSError):
            path.parent.mkdir(parents=True, exist_ok=True)
            partial.write_bytes(data)
            partial.replace(path)
            if random.randrange(_LOOK_EVERY) == 0:  # noqa: S311 - when to tidy up is no secret
                self._tidy(path.parent)

    def _tidy(self, folder: Path) -> None:
        """Remove the oldest entries, until the folder has no more than its share."""
        facts = []
        with os.scandir(folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    stat = entry.stat()
                    facts.append((stat.st_mtime_ns, stat.st_size, entry.path))
        size = sum(each[1] for each in facts)
        for _, each_size, path in sorted(facts):
            if size <= self.max_bytes // _NUM_PARTS:
                return
            Path(path).unlink(missing_ok=True)
            size -= each_size

    def _path(self, name: str) -> Path:
        key = hashlib.sha256(name.encode()).hexdigest()
        return self.folder / key[:2] / key
