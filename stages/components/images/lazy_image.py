"""Images that are decoded when their pixels are asked for, at the scale that is needed; their size is known before."""

import io
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import PIL.Image
import simplejpeg
from numpy.typing import NDArray
from PIL.JpegImagePlugin import JpegImageFile

from pipeline.store.file_digests import facts_of
from stages.components.images.decoding import MAX_PIXELS, ImageRejected, check_size, decode_image, is_turned, opened
from stages.components.images.image_set import changed

Pixels = NDArray[np.uint8]

_JPEG = b"\xff\xd8\xff"
_PLAIN_COLOURS = ("YCbCr", "RGB", "Gray")
_START_OF_SCAN, _APP1 = 0xDA, 0xE1


class LazyImage(Protocol):
    """An image that can be decoded: upright, RGB, without transparency."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the whole, in pixels."""

    def pixels(self, *, scale: float = 1.0) -> Pixels:
        """Decode the image.

        Args:
            scale: Smallest acceptable scale; the image comes at any scale from there to 1 that its decoder makes
                cheaply. 1 gives exactly the pixels of `open_image`.

        Raises:
            ImageRejected: it is damaged.

        Shapes:
            returns: (height, width, 3), uint8; perhaps read-only.
        """


@dataclass(frozen=True, eq=False)
class DecodedImage:
    """An image that is already decoded.

    Shapes:
        decoded: (height, width, 3), uint8.
    """

    decoded: Pixels

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        height, width, _ = self.decoded.shape
        return height, width

    def pixels(self, *, scale: float = 1.0) -> Pixels:  # noqa: ARG002 - as in `LazyImage`
        """Return all pixels, without a copy."""
        return self.decoded


@dataclass(frozen=True, eq=False)
class JpegImage:
    """A plain JPEG, upright and of 1 or 3 components, decoded by libjpeg-turbo.

    Scales of a half and below are made while decoding, in the cosine transform; scales between a half and 1 would take
    longer than the whole.

    Args:
        data: Bytes of the file.
        size: Height and width from the header, in pixels.
    """

    data: bytes | memoryview
    size: tuple[int, int]

    def pixels(self, *, scale: float = 1.0) -> Pixels:
        """Decode as `LazyImage` says; a file that libjpeg-turbo refuses is left to Pillow."""
        height, width = (math.ceil(side * scale) for side in self.size)
        try:
            decoded: Pixels = simplejpeg.decode_jpeg(
                self.data,
                fastdct=False,
                fastupsample=False,
                **({"min_height": height, "min_width": width, "min_factor": 2} if scale < 1 else {}),
            )
        except ValueError:
            return np.asarray(decode_image(io.BytesIO(self.data)))
        return decoded


def open_lazily(path: Path | str) -> LazyImage:
    """Open an image file of any kind that `open_image` takes.

    A plain JPEG is decoded, and may be found damaged, when its pixels are asked for; all others are decoded at once.

    Raises:
        ImageRejected: as `open_image`.
    """
    with opened(path) as file:
        return _lazy_image(file)


def open_unchanged(path: Path | str, *, facts: int) -> LazyImage:
    """Open an image file as `open_lazily` does, and refuse one that is not what was hashed.

    The open file is looked at once its bytes are read, so that a change meanwhile is noticed as well.

    Args:
        path: Path of the file.
        facts: Facts of the file when it was hashed, as `facts_of` gives them; 0 where it could not be read.

    Raises:
        ImageRejected: as `open_image`.
        ProtoRKDError: the file has changed.
    """
    is_there = False
    try:
        with opened(path) as file:
            is_there = True
            try:
                return _lazy_image(file)
            finally:
                if facts_of(os.fstat(file.fileno())) != facts:
                    raise changed(path)
    except ImageRejected as error:
        if facts and not is_there:
            raise changed(path) from error
        raise


def lazy_image_of(data: bytes) -> LazyImage:
    """Open the bytes of an image, as `open_lazily` opens a file.

    Raises:
        ImageRejected: as `open_image`.
    """
    is_small_jpeg = data.startswith(_JPEG) and len(data) <= MAX_PIXELS
    image = plain_jpeg(data) if is_small_jpeg else None
    return image or DecodedImage(np.asarray(decode_image(io.BytesIO(data))))


def _lazy_image(file: BinaryIO) -> LazyImage:
    image = _read_jpeg(file)
    return image or DecodedImage(np.asarray(decode_image(file)))


def _read_jpeg(file: BinaryIO) -> JpegImage | None:
    is_jpeg = file.read(len(_JPEG)) == _JPEG
    file.seek(0)
    if not is_jpeg or os.fstat(file.fileno()).st_size > MAX_PIXELS:
        return None  # a larger file is not read whole, but piece by piece by Pillow
    image = plain_jpeg(file.read())
    file.seek(0)
    return image


def plain_jpeg(data: bytes) -> JpegImage | None:
    """Open a JPEG that libjpeg-turbo decodes as Pillow does, in colour and orientation; None for any other.

    Raises:
        ImageRejected: it has more than ``MAX_PIXELS``.
    """
    try:
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
    except ValueError:
        return None
    check_size(height=height, width=width)
    if colours not in _PLAIN_COLOURS or (_has_metadata(data) and _is_turned(data)):
        return None
    return JpegImage(data, (height, width))


def to_image(image: LazyImage) -> PIL.Image.Image:
    """Decode an image for Pillow.

    Raises:
        ImageRejected: it is damaged.
    """
    return PIL.Image.fromarray(image.pixels())


def _has_metadata(data: bytes) -> bool:
    """Return whether a segment before the first scan may hold EXIF or XMP, or the segments cannot be followed."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and 0xC0 <= data[at + 1] < 0xFF:
        if data[at + 1] in (_START_OF_SCAN, _APP1):
            return data[at + 1] == _APP1
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
    return True


def _is_turned(data: bytes) -> bool:
    try:
        return is_turned(JpegImageFile(io.BytesIO(data)))
    except Exception:  # the Pillow path reports what is wrong
        return True
