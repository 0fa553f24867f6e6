"""Write whole files or none, and hash files: the way in which this project writes to disk."""

import contextlib
import errno
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_schemas.errors import ProtoRKDError
from data_schemas.regular_files import NotRegularError, open_regular, read_regular

PARTIAL_SUFFIX = ".partial"
OTHER_BYTES = "has other bytes than were written"  # what is wrong with a file of the right size
_BLOCK = 1 << 20
_MANY = 256


@dataclass(frozen=True)
class FileEntry:
    """One file of an artifact, as its record lists it.

    Args:
        path: Path relative to the artifact's folder, with forward slashes.
        size: Size in bytes.
        sha256: SHA-256 of the bytes, in hexadecimal.
    """

    path: str
    size: int
    sha256: str

    @classmethod
    def of(cls, root: Path, path: str) -> "FileEntry":
        """Read ``root/path`` once and describe it."""
        file = root / path
        return cls(path=path, size=file.stat().st_size, sha256=hash_file(file))

    def problem(self, root: Path, *, read: bool) -> str | None:
        """Say what is wrong with the file under ``root``, or None.

        Args:
            root: The artifact's folder.
            read: Compare every byte, not only the size.
        """
        file = root / self.path
        try:
            size = file.stat().st_size
            if size != self.size:
                return f"has {size} bytes instead of {self.size}"
            if read and hash_file(file) != self.sha256:
                return OTHER_BYTES
        except (FileNotFoundError, NotADirectoryError):
            return "missing"
        except OSError as error:
            return f"cannot be read: {error.strerror or error}"
        return None


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    digest = hashlib.sha256()
    with open_regular(path) as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def write_atomic(path: Path, data: bytes) -> None:
    """Write a whole file: temporary name beside it, fsync, rename, fsync of the folder. Makes parent folders.

    Raises:
        ProtoRKDError: the disk is full or the folder cannot be written; the previous file is untouched.
    """

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            file.write(data)

    write_atomic_by(path, write)


def write_atomic_by(path: Path, write: Callable[[Path], object], *, flag: str = "--store") -> None:
    """Write a whole file through a library that wants a path: ``write`` gets the temporary path.

    Args:
        path: The file to write.
        write: Called with the temporary path; writes the content there.
        flag: Option by which a user names the folder, for messages.

    Raises:
        ProtoRKDError: as `write_atomic`.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{PARTIAL_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(partial)
        fsync(partial)
        partial.replace(path)
        fsync(path.parent)
    except OSError as error:
        raise disk_error(path, error, flag=flag) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def create_whole(path: Path, data: bytes) -> bool:
    """Write a whole file where there is none; of several processes, on any machines, one does. Makes parent folders.

    Returns:
        Whether this call wrote it; a file that is there stays as it is.

    Raises:
        ProtoRKDError: the folder cannot be written, or its file system knows no hard links.
    """
    partial = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}{PARTIAL_SUFFIX}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(data)
        fsync(partial)
        is_ours = link_whole(partial, path)
        fsync(path.parent)
    except OSError as error:
        raise disk_error(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
    return is_ours


def link_whole(source: Path, target: Path) -> bool:
    """Give a whole file a second name, unless that name is taken; makes no folders.

    Returns:
        Whether the name is this file's.

    Raises:
        OSError: a folder is missing or cannot be written.
        ProtoRKDError: the file system knows no hard links.
    """
    try:
        os.link(source, target)
    except FileExistsError:
        return source.samefile(target)  # NFS may have linked it, lost the answer, and asked again
    except OSError as error:
        if error.errno in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS):
            raise ProtoRKDError(
                f"{target.parent} must be on a file system with hard links for --join; it is not. Pass --no-join, or "
                "share the store as s3://."
            ) from error
        raise
    return True


def open_lock(path: Path) -> int:
    """Open a file that only serves to be locked, and make it if it is absent; return its descriptor."""
    return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)


def write_unsynced(path: Path, data: bytes) -> None:
    """Write one of many files of a draft, which is forced to disk as a whole before it becomes an artifact.

    Raises:
        ProtoRKDError: as `write_atomic`.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise disk_error(path, error) from error


def allocate(path: Path, size: int) -> None:
    """Make a file of zeros and reserve its disk space, so that writing to a map of it cannot fail half-way.

    Raises:
        ProtoRKDError: the disk is full or the folder cannot be written.
    """
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            if hasattr(os, "posix_fallocate") and size:
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)


def append_line(path: Path, line: str) -> None:
    """Add one line to a journal and force it to disk; readers ignore a torn last line."""
    try:
        torn = path.exists() and path.stat().st_size > 0 and not _ends_with_newline(path)
        with path.open("ab") as file:
            file.write((b"\n" if torn else b"") + line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise disk_error(path, error) from error


def write_json(path: Path, value: Any) -> None:
    """Write JSON as a whole file, keys sorted, readable by eye."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_atomic(path, text.encode(errors="surrogatepass") + b"\n")  # a path may hold bytes that are not UTF-8


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        ProtoRKDError: the file is absent, no regular file or not JSON.
    """
    try:
        return json.loads(read_regular(path))
    except FileNotFoundError as error:
        raise ProtoRKDError(f"{path} must exist; it does not.") from error
    except NotRegularError as error:
        raise ProtoRKDError(f"{path} must be a file; got no regular file. Check the path.") from error
    except ValueError as error:
        raise ProtoRKDError(
            f"{path} must be JSON; {error}. Remove the folder around it and run its stage again."
        ) from error


def check_version(values: dict[str, Any], path: Path, *, newest: int) -> None:
    """Refuse the JSON of a newer schema than this code knows.

    Args:
        values: Content of the file, with its ``schema_version``.
        path: File that it was read from, for the message.
        newest: Newest version that is known.

    Raises:
        ProtoRKDError: it is newer.
        KeyError, TypeError: it has no version.
    """
    if values["schema_version"] > newest:
        raise ProtoRKDError(f"{path} must be of schema version {newest} or older; use a newer protorkd.")


def fsync_all(paths: Sequence[Path]) -> None:
    """Force files and their folders to disk; many of them by one call for the whole system, which is quicker."""
    if len(paths) > _MANY and hasattr(os, "sync"):
        os.sync()
        return
    for path in paths:
        fsync(path)


def fsync(path: Path) -> None:
    """Force a file or a folder to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def disk_errors(path: Path, *, flag: str = "--store") -> Iterator[None]:
    """Turn an operating system's refusals to change ``path`` into what a user can do about them.

    Args:
        path: The file or folder that is changed.
        flag: Option by which a user names its folder, for messages.

    Raises:
        ProtoRKDError: the operating system raised an OSError.
    """
    try:
        yield
    except OSError as error:
        raise disk_error(path, error, flag=flag) from error


def disk_error(path: Path, error: OSError, *, flag: str = "--store") -> ProtoRKDError:
    """Turn an operating system's refusal to write into what a user can do about it."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        advice = "Free some space and run the same command again: what was whole is kept."
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR):
        advice = f"Give {flag} a folder that you may write to."
    else:
        advice = f"Mend the disk or choose another {flag}, and run the same command again: what was whole is kept."
    return ProtoRKDError(f"{path} must be writable; {error.strerror or error}. {advice}")


def list_files(root: Path) -> list[str]:
    """List every file below ``root``, relative, with forward slashes, sorted, without left-overs of killed writes."""
    return sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_file() and not path.name.endswith(PARTIAL_SUFFIX)
    )


def _ends_with_newline(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
