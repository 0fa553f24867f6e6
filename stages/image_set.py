"""The pictures that pairs name: files below a folder or records of a pack, and their identity by content."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.memo import FileDigests
from pipeline.objects import url_of
from pipeline.stage import Input

if TYPE_CHECKING:
    from stages.pictures import Picture

IDENTITIES = ("content", "path")
_BLOCK = 1 << 14


@dataclass(frozen=True)
class ImageSet:
    """Pictures by their number: files below a folder. `PackedImageSet` has them from a pack.

    Args:
        root: the folder.
        paths: of the pictures as a manifest writes them, relative to the folder or absolute.
        missing: why there is no picture, by number, as far as it has been looked.
    """

    root: Path
    paths: Sequence[str]
    missing: Mapping[int, str] = field(default_factory=dict)

    def open(self, number: int) -> "Picture":
        """Open a picture.

        Raises:
            ImageRejected: it is missing, or damaged as far as that shows before it is decoded.
        """
        from stages.pictures import open_picture  # keeps Pillow out of --help

        return open_picture(self._file(number))

    def read_ahead(self, numbers: Sequence[int]) -> None:
        """Be told which pictures this process opens next; files are quick to open as they are."""

    def select(self, numbers: Sequence[int]) -> "ImageSet":
        """Choose pictures, which are numbered anew in the order that is given."""
        return ImageSet(root=self.root, paths=[self.paths[number] for number in numbers])

    def digests(self, numbers: Sequence[int], file_digests: FileDigests) -> list[str | None]:
        """SHA-256 of the bytes of pictures; None where there are none."""
        return file_digests.digests([self._file(number) for number in numbers])

    def _file(self, number: int) -> str:
        return os.path.join(self.root, self.paths[number])  # noqa: PTH118 - a Path takes as long as to open the file


def has_objects(root: Path, paths: Sequence[str]) -> bool:
    """Whether pictures are objects of an object store, and not files."""
    return url_of(root) is not None or any("://" in path for path in paths)


def identify_images(root: Path, paths: Sequence[str], *, identity: str, file_digests: FileDigests) -> Input:
    """Hash the pictures' bytes in their order; a missing picture is part of the identity as missing.

    Args:
        root: folder that relative paths start from.
        paths: one a pair; a picture may come more than once.
        identity: "content" reads every picture once and remembers its digest; "path" trusts that the same path always
            holds the same picture, for sets that are too large to be read for this.
        file_digests: what is remembered.
    """
    if has_objects(root, paths):
        from stages.remote_image_set import identify_objects

        return identify_objects(root, paths, identity=identity, file_digests=file_digests)
    hasher = hashlib.sha256(identity.encode())
    missing: dict[int, str] = {}
    if identity == "content":
        distinct, folder = list(dict.fromkeys(paths)), str(root)
        found = file_digests.digests([os.path.join(folder, path) for path in distinct])  # noqa: PTH118
        by_path = dict(zip(distinct, found, strict=True))
        digests = [by_path[path] for path in paths]
        for start in range(0, len(digests), _BLOCK):
            hasher.update("".join(digest or "missing" for digest in digests[start : start + _BLOCK]).encode())
        missing = {index: "missing file" for index, digest in enumerate(digests) if digest is None}
    else:
        for path in paths:
            hasher.update(path.encode() + b"\0")
    return Input(
        digest=hasher.hexdigest(), location=str(root.resolve()), value=ImageSet(root=root, paths=paths, missing=missing)
    )
