"""From the bytes that came to the image that is kept: decoded, judged, shrunk, written as a JPEG without metadata."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import PIL.Image
import simplejpeg

from data_schemas.files import disk_errors
from data_schemas.gathered_folder import image_path
from stages.components.images.decoding import ImageRejected, decode_image
from stages.components.images.lazy_image import DecodedImage, LazyImage, plain_jpeg

_LONGEST_JPEG_SIDE = 65_500
_SUBSAMPLING = "420"
_FINER = 2  # Images are decoded at no less than so many times the size they are shrunk to, as Pillow's thumbnails.


@dataclass(frozen=True, slots=True)
class Kept:
    """An image that was written.

    Args:
        width: in pixels, as written.
        height: likewise.
        sha256: of the file.
    """

    width: int
    height: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """Bytes that no image is made of.

    Args:
        reason: a short sentence, one of a fixed few.
        detail: what differs from row to row.
    """

    reason: str
    detail: str = ""


@dataclass(frozen=True)
class ImageWriter:
    """Writes images into a folder.

    Args:
        folder: where they go, each under its row.
        partial: folder for files that are not whole yet, on the same disk.
        resize: which side is shrunk, of `RESIZES`.
        image_size: to how many pixels.
        min_side: pixels that the shorter side must have.
        max_aspect_ratio: longer side to shorter; 0 is any.
        quality: of JPEG.
    """

    folder: Path
    partial: Path
    resize: str
    image_size: int
    min_side: int
    max_aspect_ratio: float
    quality: int

    def __call__(self, row: int, data: bytes) -> Kept | Rejected:
        """Keep what bytes show, or say why not.

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

    def _write(self, row: int, image: PIL.Image.Image) -> Kept:
        data = simplejpeg.encode_jpeg(
            np.asarray(image), quality=self.quality, colorspace="RGB", colorsubsampling=_SUBSAMPLING
        )
        path, partial = self.folder / image_path(row), self.partial / f"{row}.jpg"
        with disk_errors(path, flag="--output"):
            partial.write_bytes(data)
            path.parent.mkdir(exist_ok=True)
            partial.replace(path)  # forced to disk before its row counts as done
        return Kept(*image.size, hashlib.sha256(data).hexdigest())


def shrunk(size: tuple[int, int], *, side: str, pixels: int) -> tuple[int, int]:
    """Height and width after one side, where it is longer, has become ``pixels``.

    Args:
        size: height and width before.
        side: which, of `RESIZES`.
        pixels: what it becomes.
    """
    reference = min(size) if side == "short-side" else max(size)
    if side == "none" or reference <= pixels:
        return size
    height, width = (max(1, round(length * pixels / reference)) for length in size)
    return height, width


def _open(data: bytes) -> LazyImage:
    return plain_jpeg(data) or DecodedImage(np.asarray(decode_image(io.BytesIO(data))))
