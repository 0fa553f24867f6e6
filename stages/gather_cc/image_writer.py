"""Turn downloaded bytes into a stored image: decoded, checked, shrunk, written as a JPEG without metadata."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import simplejpeg

from data_schemas.files import disk_errors
from data_schemas.images.gathered_folder import image_path
from stages.components.images.decoding import ImageRejected, decode_image
from stages.components.images.lazy_image import DecodedImage, LazyImage, plain_jpeg

_LONGEST_JPEG_SIDE = 65_500
_SUBSAMPLING = "420"
_FINER = 2  # Images are decoded at no less than twice the size that they are shrunk to, as for Pillow's thumbnails.


@dataclass(frozen=True, slots=True)
class WrittenImage:
    """A written image.

    Args:
        width: Width in pixels, as written.
        height: Height in pixels, as written.
        sha256: Digest of the file.
    """

    width: int
    height: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """Bytes of which no image was made.

    Args:
        reason: Short sentence, one of a fixed few.
        detail: Details of this row.
    """

    reason: str
    detail: str = ""


@dataclass(frozen=True)
class ImageWriter:
    """A function that decodes images and writes them into a folder.

    Args:
        folder: Folder of the images, each named after its row.
        partial: Folder for incomplete files, on the same disk.
        resize: Side that is shrunk, one of `RESIZES`.
        image_size: Length to which that side is shrunk, in pixels.
        min_side: Least length of the shorter side, in pixels.
        max_aspect_ratio: Largest ratio of the longer side to the shorter; 0 is any.
        quality: Quality of JPEG.
    """

    folder: Path
    partial: Path
    resize: str
    image_size: int
    min_side: int
    max_aspect_ratio: float
    quality: int

    def __call__(self, row: int, data: bytes) -> WrittenImage | Rejected:
        """Decode and write an image, or return why it is rejected.

        Raises:
            ProtoRKDError: the disk is full or the folder cannot be written.
        """
        try:
            source = _open(data)
            height, width = source.size
            problem = self._problem(height=height, width=width)
            return problem or self._write(row, self._shrink(source))
        except ImageRejected as error:
            if "megapixels" in error.reason:
                return Rejected("more megapixels than the limit", error.reason)
            reason, _, detail = error.reason.partition(":")
            return Rejected(reason, detail.strip())

    def _problem(self, *, height: int, width: int) -> Rejected | None:
        shorter, longer = sorted((height, width))
        size = f"{width} x {height}"
        if shorter < self.min_side:
            return Rejected("smaller than --min-side", size)
        if self.max_aspect_ratio and longer > self.max_aspect_ratio * shorter:
            return Rejected("beyond --max-aspect-ratio", size)
        if self.resize != "longest-side" and longer > _LONGEST_JPEG_SIDE:
            return Rejected("longer than a JPEG can be", size)
        return None

    def _shrink(self, source: LazyImage) -> PIL.Image.Image:
        height, width = shrunk(source.size, side=self.resize, pixels=self.image_size)
        image = PIL.Image.fromarray(source.pixels(scale=min(1.0, _FINER * height / source.size[0])))
        return image if image.size == (width, height) else image.resize((width, height), PIL.Image.Resampling.BICUBIC)

    def _write(self, row: int, image: PIL.Image.Image) -> WrittenImage:
        data = simplejpeg.encode_jpeg(
            np.asarray(image), quality=self.quality, colorspace="RGB", colorsubsampling=_SUBSAMPLING
        )
        path, partial = self.folder / image_path(row), self.partial / f"{row}.jpg"
        with disk_errors(path, flag="--output"):
            partial.write_bytes(data)
            path.parent.mkdir(exist_ok=True)
            partial.replace(path)  # forced to disk before its row counts as done
        return WrittenImage(*image.size, hashlib.sha256(data).hexdigest())


def shrunk(size: tuple[int, int], *, side: str, pixels: int) -> tuple[int, int]:
    """Return height and width after one side has been shrunk to ``pixels``, if it is longer.

    Args:
        size: Height and width before.
        side: Side that is shrunk, one of `RESIZES`.
        pixels: Length of that side afterwards.
    """
    reference = min(size) if side == "short-side" else max(size)
    if side == "none" or reference <= pixels:
        return size
    height, width = (max(1, round(length * pixels / reference)) for length in size)
    return height, width


def _open(data: bytes) -> LazyImage:
    return plain_jpeg(data) or DecodedImage(np.asarray(decode_image(io.BytesIO(data))))
