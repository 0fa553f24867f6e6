"""Read images from packs, found by the paths that the packs were made from."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_schemas.artifact_record import RECORD_NAME, ArtifactRecord
from data_schemas.errors import ProtoRKDError
from data_schemas.images.packed_images import ABSENT, CONFIG_NAME, INDEX_FOLDER, PackedImages
from pipeline.fingerprint import hash_json
from pipeline.log import log
from pipeline.remote.object_store import url_of
from pipeline.stage import Input
from pipeline.store.file_digests import FileDigests
from pipeline.store.store import Artifact, Store
from stages.components.images.image_set import ImageSet

if TYPE_CHECKING:
    from stages.components.images.lazy_image import LazyImage

Rows = NDArray[np.int32]

PACK = "pack"
"""Key of the pack's digest among the parts of the input that `find_packed` returns."""


@dataclass(frozen=True, eq=False)
class PackedImageSet(ImageSet):
    """A set of images that reads a pack; when pickled, it holds only the pack's path and the rows.

    Args:
        root: Folder of the pack.
        paths: Paths of the images, as their manifest writes them.
        missing: Reasons of the images that the pack lacks, by number.
        pack: Images of the artifact.
        rows: Rows of the images in the pack.

    Shapes:
        rows: (images,), int32.
    """

    pack: PackedImages = field(kw_only=True)
    rows: Rows = field(kw_only=True)

    @classmethod
    def of(cls, pack: PackedImages, rows: Rows, paths: Sequence[str]) -> "PackedImageSet":
        """Make a set of rows of a pack, each of which exists."""
        reasons = pack.reasons
        numbers = np.flatnonzero(np.isin(rows, list(reasons))).tolist()
        missing = {number: reasons[int(rows[number])] for number in numbers}
        return cls(root=pack.root, paths=paths, missing=missing, pack=pack, rows=rows)

    def open(self, number: int) -> "LazyImage":
        """Open an image, as `ImageSet.open` does.

        Raises:
            ImageRejected: the pack has no image there, for the reason that it gives.
            ProtoRKDError: the pack is damaged.
        """
        from stages.components.images.decoding import ImageRejected
        from stages.components.images.lazy_image import DecodedImage, JpegImage

        if number in self.missing:
            raise ImageRejected(self.missing[number])
        row = int(self.rows[number])
        record, size = self.pack.read(row), self.pack.size(row)
        return DecodedImage(record.reshape(*size, 3)) if self.pack.format == "raw" else JpegImage(record.data, size)

    def select(self, numbers: Sequence[int]) -> "PackedImageSet":
        """Return the set of the chosen images, numbered anew in the given order."""
        return PackedImageSet.of(self.pack, self.rows[list(numbers)], [self.paths[number] for number in numbers])

    def stored_bytes(self, number: int) -> int:
        """Return the size of an image's record, in bytes.

        Raises:
            OSError: the pack has no image there.
        """
        if number in self.missing:
            raise FileNotFoundError(self.missing[number])
        return len(self.pack.read(int(self.rows[number])).data)

    def digests(self, numbers: Sequence[int], file_digests: FileDigests) -> list[str | None]:  # noqa: ARG002
        """Hash the records by SHA-256; for a JPEG that was packed unchanged, that is its file's digest."""
        return [
            None if number in self.missing else hashlib.sha256(self.pack.read(int(self.rows[number])).data).hexdigest()
            for number in numbers
        ]


def mean_bytes(images: ImageSet) -> float:
    """Return the mean size in bytes of images that a pack stores as pixels."""
    assert isinstance(images, PackedImageSet)
    return images.pack.mean_bytes(images.rows)


def are_raw(images: ImageSet) -> bool:
    """Return whether images are stored as pixels, with nothing to decode."""
    return isinstance(images, PackedImageSet) and images.pack.format == "raw"


class PackedPaths(Sequence[str]):
    """Paths of a pack's rows, looked up when they are asked for."""

    def __init__(self, pack: PackedImages, rows: Rows) -> None:
        self._pack, self._rows = pack, rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, number: int) -> str:  # type: ignore[override] # nobody slices them
        path: str = self._pack.paths[int(self._rows[number])].as_py()
        return path

    def index(self, path: str) -> int:  # type: ignore[override] # nor looks in a part of them
        """Return the number of the first image with a path, which must exist."""
        [row] = self._pack.find([path])
        return int(np.flatnonzero(self._rows == row)[0])

    def __iter__(self) -> Iterator[str]:
        yield from self._pack.paths.take(pa.array(self._rows)).to_pylist()


@dataclass(frozen=True)
class Pack:
    """An opened artifact of pack.

    Args:
        artifact: Artifact, with its folder and record.
        images: Images of the artifact.
    """

    artifact: Artifact
    images: PackedImages

    @classmethod
    def open(cls, artifact: Artifact) -> "Pack":
        """Open an artifact and check its lists; records are checked against their checksums when they are read.

        Raises:
            ProtoRKDError: a list is damaged, or a shard has another size than was written.
        """
        artifact.require_whole()
        artifact.require_whole((CONFIG_NAME, f"{INDEX_FOLDER}/"), read=True)
        return cls(artifact, PackedImages(artifact.path))


def take_packed(artifact: Artifact, paths: pa.Array, *, manifest: str) -> Input[ImageSet]:
    """Return all images of a pair index from a pack; the pack's digest is their identity.

    Args:
        artifact: Artifact of pack.
        paths: Paths of the images, as the manifest writes them; an image may come more than once.
        manifest: Path of the manifest, for the message.

    Raises:
        ProtoRKDError: the pack does not know a path, or is damaged.
    """
    pack = Pack.open(artifact).images
    rows = pack.find(paths)
    absent = np.flatnonzero(rows == ABSENT)
    if len(absent):
        raise ProtoRKDError(
            f"--packed must hold every image of the pairs; got {artifact.path}, which lacks {len(absent):,} of "
            f"{len(rows):,}, first {paths[int(absent[0])].as_py()}. Run: python cli.py pack --manifest {manifest}"
        )
    images = PackedImageSet.of(pack, rows, PackedPaths(pack, rows))
    return Input(digest=artifact.record.digest, location=str(artifact.path.resolve()), value=images)


def take_all(pack: Pack) -> Input[ImageSet]:
    """Return all images of a pack, rejected ones included; the pack's digest is their identity."""
    rows = np.arange(len(pack.images), dtype=np.int32)
    images = PackedImageSet.of(pack.images, rows, PackedPaths(pack.images, rows))
    return Input(digest=pack.artifact.record.digest, location=str(pack.artifact.path.resolve()), value=images)


def find_packed(packs: Sequence[Pack], root: Path, paths: Sequence[str]) -> Input[ImageSet] | None:
    """Return the images of a set from the first pack that has all of them; None if no pack does.

    If the set starts from the folder that the pack was made from, paths are compared as written; else as full paths.

    Args:
        packs: Packs to search, in this order.
        root: Folder that the paths of the set start from.
        paths: Paths of the set's images.
    """
    for pack in packs:
        rows = _find_places(pack, root if url_of(root) else root.resolve(), paths)
        absent = np.flatnonzero(rows == ABSENT)
        if not len(absent):
            whole = pack.artifact.record.digest
            digest = hash_json([whole, hashlib.sha256(rows.tobytes()).hexdigest()])
            images = PackedImageSet.of(pack.images, rows, paths)
            return Input(digest=digest, location=url_of(root) or str(root.resolve()), parts={PACK: whole}, value=images)
        if len(absent) < len(rows):
            log.info(
                "%s lacks %d of %d images below %s, first %s; they are read from their files",
                pack.artifact.name, len(absent), len(rows), root, paths[absent[0]],
            )  # fmt: skip
    return None


def find_pack(digest: str, location: str, store: Store) -> Artifact | None:
    """Find the pack that images were taken from, at its location or in the store; None if it is gone."""
    place = Path(location)
    known = [Artifact(place, ArtifactRecord.read(place))] if (place / RECORD_NAME).is_file() else []
    candidates = [*known, *store.artifacts("pack")]
    pack = next((artifact for artifact in candidates if artifact.record.digest == digest), None)
    return store.fetch(pack) if pack else None


def _find_places(pack: Pack, root: Path, paths: Sequence[str]) -> Rows:
    """Find rows by paths as written, relative to the pack's folder, or absolute."""
    pack_root = Path(pack.artifact.record.inputs["pictures"].location)
    rows = pack.images.find(paths) if root == pack_root else np.full(len(paths), ABSENT, np.int32)
    full = [os.path.normpath(os.path.join(root, path)) for path in paths]  # noqa: PTH118
    for forms in ([os.path.relpath(path, pack_root) for path in full], full):
        rows = np.where(rows == ABSENT, pack.images.find(forms), rows)
    return rows
