"""A set that is searched: what its rows are called, and their images."""

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from data_schemas.embedded_images import IMAGES_NAME, read_images
from data_schemas.packed_images import ABSENT, PackedImages
from data_schemas.pair_index import CAPTIONS_NAME, PAIRS_NAME, read_captions, read_pairs
from pipeline.store.file_digests import FileDigests
from pipeline.store.store import Artifact, Store
from stages.components.embeddings.searchable import EMBED
from stages.components.images.image_set import ImageSet
from stages.components.images.opening import open_images
from stages.components.images.packed_image_set import PACK, Pack, PackedImageSet, find_pack


@dataclass(frozen=True)
class Hit:
    """Something found.

    Args:
        rank: from 1.
        score: its cosine with the query.
        row: in the artifact's array.
        name: path of an image, or a caption.
        others: paths of other images of the same bytes; of a caption, those of its images.
    """

    rank: int
    score: float
    row: int
    name: str
    others: tuple[str, ...]


class SearchedSet:
    """The rows of an artifact of embed or encode-teacher, by what they stand for.

    Args:
        artifact: which one.
        image_root: where its images lie, if not where they were when the artifact was made.
        store: for the pack that they may come from.
        file_digests: remembers what lies in tars.

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
        """What its rows are."""
        return "picture" if self.is_images else "caption"

    @property
    def rows(self) -> list[int]:
        """Rows that stand for something, ascending."""
        found: list[int] = np.unique(self._rows).tolist()
        return found

    def name(self, row: int) -> str:
        """Path of a row's first image, or its caption."""
        return self._of(row)[0] if self.is_images else self._names[row].as_py()

    def others(self, row: int) -> tuple[str, ...]:
        """Paths of the other images of a row; of a caption, of all its images."""
        paths = self._of(row)[1:] if self.is_images else self._of(row)
        return tuple(dict.fromkeys(paths))

    def hits(self, scores: Sequence[float], rows: Sequence[int]) -> list[Hit]:
        """Name what was found; empty places of an index are left out."""
        return [
            Hit(rank, float(score), int(row), self.name(int(row)), self.others(int(row)))
            for rank, (score, row) in enumerate(zip(scores, rows, strict=True), start=1)
            if row >= 0
        ]

    def images(self, rows: Sequence[int]) -> ImageSet:
        """The first image of each of some rows, from the pack that they were read from, or from their files.

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
        """The pack that the images were read from, if they were, and if it is there."""
        entry = self.artifact.record.inputs["pictures"]
        pack = find_pack(entry.parts.get(PACK, entry.digest), entry.location, self._store)
        return Pack.open(pack).images if pack is not None else None

    def _of(self, row: int) -> list[str]:
        first, last = np.searchsorted(self._sorted, [row, row + 1])
        found: list[str] = self._paths.take(pa.array(self._order[first:last])).to_pylist()
        return found
