"""The pictures that pairs name: files below a folder, records of containers or of a pack, and their identity."""

import dataclasses
import hashlib
import os
import re
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
_MAY_BE_LOCATOR = re.compile(r"\.(?:tar|parquet|pq|arrow)/", re.IGNORECASE)


@dataclass(frozen=True)
class ImageSet:
    """Pictures by their number: files below a folder.

    `PackedImageSet` has them from a pack, `RecordImageSet` from tars and tables.

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

    def shared(self) -> "ImageSet":
        """The same, with what is large in memory that processes share."""
        from stages.shared_names import share_names  # keeps torch out of --help

        return dataclasses.replace(self, paths=share_names(self.paths))

    def stored_bytes(self, number: int) -> int:
        """How many bytes a picture has as it is stored.

        Raises:
            OSError: it is missing.
        """
        return os.stat(self._file(number)).st_size  # noqa: PTH116 - as the rest of the set does

    def digests(self, numbers: Sequence[int], file_digests: FileDigests) -> list[str | None]:
        """SHA-256 of the bytes of pictures; None where there are none."""
        return file_digests.digests([self._file(number) for number in numbers])

    def _file(self, number: int) -> str:
        return os.path.join(self.root, self.paths[number])  # noqa: PTH118 - a Path takes as long as to open the file


def has_objects(root: Path, paths: Sequence[str]) -> bool:
    """Whether pictures are objects of an object store, and not files."""
    return url_of(root) is not None or any("://" in path for path in paths)


def may_lie_in_containers(paths: Sequence[str]) -> bool:
    """Whether some paths may be locators of records in containers."""
    return any(_MAY_BE_LOCATOR.search(path) for path in paths)


def open_images(root: Path, paths: Sequence[str], file_digests: FileDigests) -> ImageSet:
    """Open pictures by their paths, which may be those of files, locators of records in containers, or objects.

    Args:
        root: folder that they start from.
        paths: one a picture.
        file_digests: remembers what lies in tars.
    """
    if has_objects(root, paths):
        from stages.remote_image_set import RemoteImageSet

        return RemoteImageSet(root=root, paths=paths)
    if not may_lie_in_containers(paths):
        return ImageSet(root=root, paths=paths)
    from stages.record_image_set import RecordImageSet  # keeps pyarrow out of --help

    return RecordImageSet(root=root, paths=paths, list_members=file_digests.members)


def identify_images(root: Path, paths: Sequence[str], *, identity: str, file_digests: FileDigests) -> Input:
    """Hash the pictures' bytes in their order; a missing picture is part of the identity as missing.

    Of pictures in containers, the containers are hashed whole, and which of their records are meant.

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
    images = open_images(root, paths, file_digests)
    hasher = hashlib.sha256(identity.encode())
    missing: dict[int, str] = {}
    if identity == "content":
        names = _files_behind(images)
        distinct, folder = list(dict.fromkeys(names)), str(root)
        found = file_digests.digests([os.path.join(folder, name) for name in distinct])  # noqa: PTH118
        by_name = dict(zip(distinct, found, strict=True))
        digests = [by_name[name] for name in names]
        for start in range(0, len(digests), _BLOCK):
            hasher.update("".join(digest or "missing" for digest in digests[start : start + _BLOCK]).encode())
        missing = {index: "missing file" for index, digest in enumerate(digests) if digest is None}
        if names is not paths:
            hasher.update("\0".join(paths).encode())
    else:
        for path in paths:
            hasher.update(path.encode() + b"\0")
    return Input(
        digest=hasher.hexdigest(),
        location=str(root.resolve()),
        value=dataclasses.replace(images, missing=missing),
    )


def _files_behind(images: ImageSet) -> Sequence[str]:
    """Which file has each picture: its own, or a container."""
    if type(images) is ImageSet:
        return images.paths
    from stages.record_image_set import files_behind

    return files_behind(images.root, images.paths)
