"""The set that is searched: names and images of its rows."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_schemas.images.embedded_images import IMAGES_NAME, read_images
from data_schemas.images.packed_images import ABSENT, PackedImages
from data_schemas.pair_index import CAPTIONS_NAME, PAIRS_NAME, read_captions, read_pairs
from pipeline.store.file_digests import FileDigests
from pipeline.store.store import Artifact, Store
from stages.components.embeddings.searchable import EMBED
from stages.components.images.image_set import ImageSet
from stages.components.images.opening import open_images
from stages.components.images.packed_image_set import PACK, Pack, PackedImageSet, find_pack


@dataclass(frozen=True)
class Hit:
    """A row that a search found.

    Args:
        rank: Rank among the results, from 1.
        score: Cosine with the query.
        row: Row in the artifact's array.
        name: Path of an image, or a caption.
        others: Paths of other images with the same bytes; for a caption, those of its images.
    """

    rank: int
    score: float
    row: int
    name: str
    others: tuple[str, ...]


class SearchedSet:
    """The rows of an artifact of embed or encode-teacher, with their captions or images.

    Args:
        artifact: Artifact that is searched.
        image_root: Folder of its images; None takes the one from when the artifact was made.
        store: Store with the pack that the images may come from.
        file_digests: Remembered members of tars.

    Raises:
        ProtoRKDError: a file of the artifact is missing or altered.
    """

    def __init__(self, artifact: Artifact, *, image_root: Path | None, store: Store, file_digests: FileDigests) -> None:
        self.artifact = artifact
        self.is_images = artifact.record.stage == EMBED
        if self.is_images:
            artifact.require_whole((IMAGES_NAME,), read=True)
            table = read_images(artifact.path)
            self._rows, self._paths = table["image_row"].to_numpy(), table["image"]
            self._names: Any = {}
        else:
            artifact.require_whole((CAPTIONS_NAME, PAIRS_NAME), read=True)
            pairs = read_pairs(artifact.path)
            self._rows, self._paths = pairs["caption_row"].to_numpy(), pairs["image"]
            self._names = read_captions(artifact.path)
        self._order = np.argsort(self._rows, kind="stable")
        self._sorted = self._rows[self._order]
        self._image_root, self._store, self._file_digests = image_root, store, file_digests

    @property
    def noun(self) -> str:
        """Word for what a row is."""
        return "image" if self.is_images else "caption"

    @property
    def rows(self) -> list[int]:
        """Rows that have an image or a caption, ascending."""
        rows: list[int] = np.unique(self._rows).tolist()
        return rows

    def name(self, row: int) -> str:
        """Return the path of a row's first image, or its caption."""
        return self._of(row)[0] if self.is_images else self._names[row].as_py()

    def others(self, row: int) -> tuple[str, ...]:
        """Return the paths of a row's other images; for a caption, of all its images."""
        paths = self._of(row)[1:] if self.is_images else self._of(row)
        return tuple(dict.fromkeys(paths))

    def hits(self, scores: Sequence[float], rows: Sequence[int]) -> list[Hit]:
        """Turn rows with scores into hits; rows below 0, which an index adds for missing ones, are left out."""
        return [
            Hit(rank, float(score), int(row), self.name(int(row)), self.others(int(row)))
            for rank, (score, row) in enumerate(zip(scores, rows, strict=True), start=1)
            if row >= 0
        ]

    def images(self, rows: Sequence[int]) -> ImageSet:
        """Return the first image of each row, from the pack that it was read from, or from its file.

        Raises:
            ProtoRKDError: the pack is damaged.
        """
        paths = [self._of(row)[0] for row in rows]
        if self._image_root is not None:
            return open_images(self._image_root, paths, self._file_digests)
        if self._pack is not None:
            places = self._pack.find(paths)
            if not (places == ABSENT).any():
                return PackedImageSet.of(self._pack, places, paths)
        return open_images(Path(self.artifact.record.inputs["paths"].location), paths, self._file_digests)

    @functools.cached_property
    def _pack(self) -> PackedImages | None:
        """Pack that the images were read from; None if there was none, or it is gone."""
        entry = self.artifact.record.inputs["pictures"]
        pack = find_pack(entry.parts.get(PACK, entry.digest), entry.location, self._store)
        return Pack.open(pack).images if pack is not None else None

    def _of(self, row: int) -> list[str]:
        first, last = np.searchsorted(self._sorted, [row, row + 1])
        paths: list[str] = self._paths.take(pa.array(self._order[first:last])).to_pylist()
        return paths
