"""Open and identify a set of images, by what its paths lead to: files, containers or objects."""

import array
import dataclasses
import hashlib
import os
import re
from collections.abc import Sequence
from pathlib import Path

from pipeline.remote.object_store import url_of
from pipeline.stage import Input
from pipeline.store.file_digests import FileDigests
from stages.components.images.image_set import ImageSet

_BLOCK = 1 << 14


_MAY_BE_LOCATOR = re.compile(r"\.(?:tar|parquet|pq|arrow)/", re.IGNORECASE)


def has_objects(root: Path, paths: Sequence[str]) -> bool:
    """Return whether some images are objects of an object store."""
    return url_of(root) is not None or any("://" in path for path in paths)


def may_lie_in_containers(paths: Sequence[str]) -> bool:
    """Return whether some paths may be locators of records in containers, such as ``0.tar/17.jpg``."""
    return any(_MAY_BE_LOCATOR.search(path) for path in paths)


def open_images(root: Path, paths: Sequence[str], file_digests: FileDigests) -> ImageSet:
    """Open images by their paths: files, locators of records in containers, or objects.

    Args:
        root: Folder that relative paths start from.
        paths: One path for each image.
        file_digests: Remembered digests of files and members of tars.
    """
    if has_objects(root, paths):
        from stages.components.images.remote_image_set import RemoteImageSet

        return RemoteImageSet(root=root, paths=paths)
    if not may_lie_in_containers(paths):
        return ImageSet(root=root, paths=paths)
    from stages.components.images.record_image_set import RecordImageSet  # keeps pyarrow out of --help

    return RecordImageSet(root=root, paths=paths, list_members=file_digests.members)


def identify_images(root: Path, paths: Sequence[str], *, identity: str, file_digests: FileDigests) -> Input[ImageSet]:
    """Hash the images' bytes in their order; a missing image counts as missing.

    For images in containers, the whole containers are hashed, and the locators.

    Args:
        root: Folder that relative paths start from.
        paths: One path for each pair; an image may come more than once.
        identity: "content" reads every image once and remembers its digest; "path" trusts that the same path always
            holds the same image, for sets that are too large to be read for this, and hashes folder and paths.
        file_digests: Remembered digests of files and members of tars.
    """
    if has_objects(root, paths):
        from stages.components.images.remote_image_set import identify_objects

        return identify_objects(root, paths, identity=identity, file_digests=file_digests)
    images = open_images(root, paths, file_digests)
    hasher, location = hashlib.sha256(identity.encode()), str(root.resolve())
    missing: dict[int, str] = {}
    facts = None
    if identity == "content":
        names = _files_behind(images)
        distinct, folder = list(dict.fromkeys(names)), str(root)
        places = [os.path.join(folder, name) for name in distinct]  # noqa: PTH118
        by_name = dict(zip(distinct, zip(*file_digests.digests_and_facts(places), strict=True), strict=True))
        digests = [by_name[name][0] for name in names]
        facts = array.array("q", (by_name[name][1] for name in names))
        for start in range(0, len(digests), _BLOCK):
            hasher.update("".join(digest or "missing" for digest in digests[start : start + _BLOCK]).encode())
        missing = _missing(paths, digests)
        if names is not paths:
            hasher.update("\0".join(paths).encode())
    else:
        hasher.update(location.encode(errors="surrogateescape") + b"\0")
        for path in paths:
            hasher.update(path.encode() + b"\0")
    return Input(
        digest=hasher.hexdigest(),
        location=location,
        value=dataclasses.replace(images, missing=missing, facts=facts),
    )


def _missing(paths: Sequence[str], digests: Sequence[str | None]) -> dict[int, str]:
    """Say of each image without a digest why it is missing, by number."""
    numbers = [number for number, digest in enumerate(digests) if digest is None]
    if not numbers:
        return {}
    from stages.components.images.decoding import missing_reason  # keeps Pillow out of "unchanged"

    return {number: missing_reason(paths[number]) for number in numbers}


def _files_behind(images: ImageSet) -> Sequence[str]:
    """Return the file that holds each image: its own, or a container."""
    if type(images) is ImageSet:
        return images.paths
    from stages.components.images.record_image_set import files_behind

    return files_behind(images.root, images.paths)
