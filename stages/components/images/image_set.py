"""Sets of images by number: here files below a folder; packs, containers and object stores have their own classes."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from data_schemas.errors import ProtoRKDError
from pipeline.store.file_digests import FileDigests

if TYPE_CHECKING:
    from stages.components.images.lazy_image import LazyImage

IDENTITIES = CONTENT, PATH = "content", "path"


@dataclass(frozen=True, eq=False)
class ImageSet:
    """A set of images, opened by number: files below a folder.

    A file that was hashed is compared with what it was then whenever it is opened: a change is an error.
    `PackedImageSet` reads a pack, `RecordImageSet` tars and tables, `RemoteImageSet` an object store.

    Args:
        root: Folder that relative paths start from.
        paths: Paths of the images as a manifest writes them, relative to the folder or absolute.
        missing: Reasons of the images that are known to be missing, by number.
        facts: Facts of the files when they were hashed, from `FileDigests.digests_and_facts`; None where images are
            not identified by content.

    Shapes:
        facts: (images,), int64; or a tensor in shared memory.
    """

    root: Path
    paths: Sequence[str]
    missing: Mapping[int, str] = field(default_factory=dict)
    facts: Any = field(default=None, kw_only=True, repr=False)

    def open(self, number: int) -> "LazyImage":
        """Open an image.

        Raises:
            ImageRejected: it is missing, or found damaged before it is decoded.
            ProtoRKDError: it is not what it was when it was hashed.
        """
        from stages.components.images.lazy_image import open_lazily, open_unchanged  # keeps Pillow out of --help

        if self.facts is None:
            return open_lazily(self._file(number))
        return open_unchanged(self._file(number), facts=int(self.facts[number]))

    def read_ahead(self, numbers: Sequence[int]) -> None:
        """Prepare for opening these images next in this process; files need no preparation."""

    def select(self, numbers: Sequence[int]) -> "ImageSet":
        """Return the set of the chosen images, numbered anew in the given order."""
        chosen = [self.paths[number] for number in numbers]
        return ImageSet(self.root, chosen, self._missing_of(numbers), facts=self._facts_of(numbers))

    def shared(self) -> "ImageSet":
        """Return the same set with its large parts in shared memory."""
        from stages.components.compute.shared_memory import share_names  # keeps torch out of --help

        return dataclasses.replace(self, paths=share_names(self.paths), facts=self._shared_facts())

    def stored_bytes(self, number: int) -> int:
        """Return the size of an image as it is stored, in bytes.

        Raises:
            OSError: it is missing.
        """
        return os.stat(self._file(number)).st_size  # noqa: PTH116 - as the rest of the set does

    def digests(self, numbers: Sequence[int], file_digests: FileDigests) -> list[str | None]:
        """Hash the bytes of images by SHA-256; None for missing ones.

        Raises:
            ProtoRKDError: one is not what it was when it was hashed.
        """
        digests, facts = file_digests.digests_and_facts([self._file(number) for number in numbers])
        if self.facts is not None:
            for number, seen in zip(numbers, facts, strict=True):
                if seen != int(self.facts[number]):
                    raise changed(self._file(number))
        return digests

    def _missing_of(self, numbers: Sequence[int]) -> dict[int, str]:
        return {new: self.missing[number] for new, number in enumerate(numbers) if number in self.missing}

    def _facts_of(self, numbers: Sequence[int]) -> list[int] | None:
        return None if self.facts is None else [int(self.facts[number]) for number in numbers]

    def _shared_facts(self) -> Any:
        if self.facts is None:
            return None
        import numpy as np
        import torch

        from stages.components.compute.shared_memory import share

        return share(torch.from_numpy(np.array(self.facts, np.int64)))

    def _file(self, number: int) -> str:
        return os.path.join(self.root, self.paths[number])  # noqa: PTH118 - a Path takes as long as to open the file


def changed(place: Path | str) -> ProtoRKDError:
    """Return the error of an image, or of a container, that is not what was hashed."""
    return ProtoRKDError(
        f"{place} must be as it was when its bytes were hashed; it has changed. Run the same command again."
    )
