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
        score: Cosine with the query, or what a calibration makes of it.
        row: Row in the artifact's array; of several artifacts, in one array after the other.
        name: Path of an image, or a caption.
        others: Paths of other images with the same bytes; for a caption, those of its images.
        is_image: Whether it is an image.
    """

    rank: int
    score: float
    row: int
    name: str
    others: tuple[str, ...]
    is_image: bool


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


class JointSet:
    """Several searched sets as one: the rows of each are numbered on from those of the one before.

    Args:
        sets: Sets that are searched together, or one alone.
    """

    def __init__(self, sets: Sequence[SearchedSet]) -> None:
        self.sets = tuple(sets)
        ends = np.cumsum([0, *(each.rows[-1] + 1 if each.rows else 0 for each in sets)])
        self.starts: list[int] = ends[:-1].tolist()

    @property
    def noun(self) -> str:
        """Word for what a row is."""
        nouns = {"image" if each.is_images else "caption" for each in self.sets}
        return nouns.pop() if len(nouns) == 1 else "result"

    @property
    def rows(self) -> list[int]:
        """Rows that have an image or a caption, ascending."""
        return [start + row for start, each in zip(self.starts, self.sets, strict=True) for row in each.rows]

    def locate(self, row: int) -> tuple[int, int]:
        """Return the place of a row's set among the sets, and its row there."""
        place = int(np.searchsorted(self.starts, row, side="right")) - 1
        return place, row - self.starts[place]

    def is_image(self, row: int) -> bool:
        """Tell whether a row is an image's."""
        return self.sets[self.locate(row)[0]].is_images

    def describe(self, row: int) -> dict[str, Any]:
        """Return the name of a row, its other paths, and whether it is an image."""
        place, own = self.locate(row)
        found = self.sets[place]
        return {"name": found.name(own), "others": found.others(own), "is_image": found.is_images}

    def hits(self, scores: Sequence[float], rows: Sequence[int]) -> list[Hit]:
        """Turn rows with scores into hits, best first."""
        return [
            Hit(rank, float(score), int(row), **self.describe(int(row)))
            for rank, (score, row) in enumerate(zip(scores, rows, strict=True), start=1)
        ]

    def image(self, row: int) -> ImageSet:
        """Return the first image of a row, as a set of one.

        Raises:
            ProtoRKDError: its pack is damaged.
        """
        place, own = self.locate(row)
        return self.sets[place].images([own])
