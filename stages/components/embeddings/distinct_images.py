"""Find equal images, which share a row, among the images to embed and in an artifact."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_schemas.images.embedded_images import IMAGES_NAME, read_images, write_images
from pipeline.store.store import Artifact
from stages.components.images.image_set import ImageSet


@dataclass(frozen=True)
class Distinct:
    """Images, with equal ones mapped to the same row.

    Args:
        images: Images by number, each path once.
        digests: Digests of their files, by number; None where it is unknown, or there is no file.

    Shapes:
        rows: (images,), int64: row of each image in the array; equal images share one.
        firsts: (rows,), int64: number of the first image of each row.
    """

    images: ImageSet
    digests: Sequence[str | None]
    rows: NDArray[np.int64]
    firsts: NDArray[np.int64]

    @classmethod
    def of(cls, images: ImageSet, digests: Sequence[str | None]) -> "Distinct":
        """Number the distinct images in order of first appearance."""
        # The NUL keeps a number from being taken for a digest.
        keys = [digest or f"\0{number}" for number, digest in enumerate(digests)]
        rows = pa.array(keys, pa.large_string()).dictionary_encode().indices.to_numpy().astype(np.int64)
        return cls(images, digests, rows, np.unique(rows, return_index=True)[1])

    @property
    def keys(self) -> pa.Array:
        """Digest of each row, in row order."""
        return pa.array([self.digests[number] for number in self.firsts], pa.large_string())

    def path(self, row: int) -> str:
        """Return the path of a row's first image."""
        return self.images.paths[int(self.firsts[row])]

    def write(self, root: Path, *, without: set[int]) -> None:
        """Write each image's path, row and digest to an artifact's folder.

        Args:
            root: Folder of the artifact.
            without: Numbers of images that have no embedding.
        """
        numbers = [number for number in range(len(self.rows)) if number not in without]
        columns: dict[str, Any] = {
            "image_row": self.rows[numbers],
            "image": pa.array([self.images.paths[number] for number in numbers], pa.large_string()),
            "sha256": pa.array([self.digests[number] for number in numbers], pa.large_string()),
        }
        write_images(root, pa.table(columns))


def read_keys(artifact: Artifact) -> pa.Array:
    """Read the digest of each row of an artifact, in row order; null where it is unknown.

    Raises:
        ProtoRKDError: the list is not as it was written.
    """
    artifact.require_whole((IMAGES_NAME,), read=True)
    table = read_images(artifact.path)
    rows = table["image_row"].to_numpy()
    keys = np.full(int(rows.max()) + 1 if len(rows) else 0, None, dtype=object)
    keys[rows] = table["sha256"].to_numpy(zero_copy_only=False)
    return pa.array(keys, pa.large_string())
