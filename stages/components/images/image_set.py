"""The images that pairs name: files below a folder, records of containers or of a pack, and their identity."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from pipeline.store.file_digests import FileDigests

if TYPE_CHECKING:
    from stages.components.images.lazy_image import LazyImage

IDENTITIES = ("content", "path")


@dataclass(frozen=True)
class ImageSet:
    """Images by their number: files below a folder.

    `PackedImageSet` has them from a pack, `RecordImageSet` from tars and tables.

    Args:
        root: the folder.
        paths: of the images as a manifest writes them, relative to the folder or absolute.
        missing: why there is no image, by number, as far as it has been looked.
    """

    root: Path
    paths: Sequence[str]
    missing: Mapping[int, str] = field(default_factory=dict)

    def open(self, number: int) -> "LazyImage":
        """Open an image.

        Raises:
            ImageRejected: it is missing, or damaged as far as that shows before it is decoded.
        """
        from stages.components.images.lazy_image import open_lazily  # keeps Pillow out of --help

        return open_lazily(self._file(number))

    def read_ahead(self, numbers: Sequence[int]) -> None:
        """Be told which images this process opens next; files are quick to open as they are."""

    def select(self, numbers: Sequence[int]) -> "ImageSet":
        """Choose images, which are numbered anew in the order that is given."""
        return ImageSet(root=self.root, paths=[self.paths[number] for number in numbers])

    def shared(self) -> "ImageSet":
        """The same, with what is large in memory that processes share."""
        from stages.components.compute.shared_memory import share_names  # keeps torch out of --help

        return dataclasses.replace(self, paths=share_names(self.paths))

    def stored_bytes(self, number: int) -> int:
        """How many bytes an image has as it is stored.

        Raises:
            OSError: it is missing.
        """
        return os.stat(self._file(number)).st_size  # noqa: PTH116 - as the rest of the set does

    def digests(self, numbers: Sequence[int], file_digests: FileDigests) -> list[str | None]:
        """SHA-256 of the bytes of images; None where there are none."""
        return file_digests.digests([self._file(number) for number in numbers])

    def _file(self, number: int) -> str:
        return os.path.join(self.root, self.paths[number])  # noqa: PTH118 - a Path takes as long as to open the file
