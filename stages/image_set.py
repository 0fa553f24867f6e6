"""The pictures that pairs name: where they lie, and their identity by content."""

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.memo import FileDigests
from pipeline.stage import Input

IDENTITIES = ("content", "path")


@dataclass(frozen=True)
class ImageSet:
    """Pictures below a folder.

    Args:
        root: the folder.
        paths: of the pictures as a manifest writes them, relative to the folder or absolute.
        missing: which of them are not there, as far as it has been looked.
    """

    root: Path
    paths: Sequence[str]
    missing: frozenset[int] = frozenset()

    def full_path(self, index: int) -> Path:
        """Where a picture lies."""
        return self.root / self.paths[index]


def identify_images(root: Path, paths: Sequence[str], *, identity: str, file_digests: FileDigests) -> Input:
    """Hash the pictures' bytes in their order; a missing picture is part of the identity as missing.

    Args:
        root: folder that relative paths start from.
        paths: one a pair; a picture may come more than once.
        identity: "content" reads every picture once and remembers its digest; "path" trusts that the same path always
            holds the same picture, for sets that are too large to be read for this.
        file_digests: what is remembered.
    """
    hasher = hashlib.sha256(identity.encode())
    missing: frozenset[int] = frozenset()
    if identity == "content":
        distinct = list(dict.fromkeys(paths))
        found = file_digests.digests([os.path.join(root, path) for path in distinct])  # noqa: PTH118
        by_path = dict(zip(distinct, found, strict=True))
        for path in paths:
            hasher.update((by_path[path] or "missing").encode())
        missing = frozenset(index for index, path in enumerate(paths) if by_path[path] is None)
    else:
        for path in paths:
            hasher.update(path.encode() + b"\0")
    return Input(
        digest=hasher.hexdigest(), location=str(root.resolve()), value=ImageSet(root=root, paths=paths, missing=missing)
    )
