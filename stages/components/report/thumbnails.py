"""Make small images for pages, as data URIs."""

import base64
import functools
import io
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from stages.components.images.decoding import ImageRejected, open_image
from stages.components.images.image_set import ImageSet
from stages.components.images.lazy_image import to_image

if TYPE_CHECKING:
    from torch import Tensor

THUMBNAIL_SIZE = 160

_GREY = (128, 130, 134)


class Thumbnails:
    """Thumbnails of the readable images of a set, each made once.

    Args:
        images: Set of images.
        rows: Number in the set of each image that could be read, (readable,), int64.
    """

    def __init__(self, images: ImageSet, rows: "Tensor") -> None:
        self._images = images
        self._rows: list[int] = rows.tolist()
        self._made: dict[int, str] = {}

    def path(self, index: int) -> str:
        """Return the path of a readable image, as the set writes it."""
        return self._images.paths[self._rows[index]]

    def image(self, index: int) -> str:
        """Return the data URI of a readable image, or `stand_in` if it has vanished meanwhile."""
        if index not in self._made:
            self._made[index] = thumbnail_or_stand_in(self._images, self._rows[index])
        return self._made[index]


def thumbnail_or_stand_in(images: ImageSet, number: int, *, size: int = THUMBNAIL_SIZE) -> str:
    """Make a thumbnail of an image of a set, or return `stand_in` if it can no longer be read."""
    try:
        return thumbnail(to_image(images.open(number)), size=size)
    except ImageRejected:
        return stand_in()


@functools.cache
def stand_in() -> str:
    """Return the data URI of the grey square that stands for an image that has vanished."""
    return _as_uri(stand_in_jpeg())


def stand_in_jpeg() -> bytes:
    """Return the grey square of `stand_in` as a JPEG file."""
    return small_jpeg(Image.new("RGB", (8, 8), _GREY), size=8)


def thumbnail(image: Path | Image.Image, size: int = 96) -> str:
    """Make a small JPEG of an image, as a data URI. Equal pixels give equal bytes.

    Args:
        image: File, or loaded image; transparent parts turn white.
        size: Greatest length of the longer side, in pixels; smaller images keep their size.

    Raises:
        ImageRejected: the file cannot be read as an image.
    """
    return _as_uri(small_jpeg(image, size=size))


def small_jpeg(image: Path | Image.Image, *, size: int) -> bytes:
    """Make a JPEG file of an image, as `thumbnail` says."""
    shrunk = _on_white(open_image(image) if isinstance(image, Path) else image)
    shrunk.thumbnail((size, size), Image.Resampling.LANCZOS, reducing_gap=None)
    # Pasted into a fresh image, so that no comment or colour profile of the file is kept.
    bare = Image.new("RGB", shrunk.size)
    bare.paste(shrunk)
    buffer = io.BytesIO()
    bare.save(buffer, format="JPEG", quality=82, optimize=True)
    return buffer.getvalue()


def _as_uri(jpeg: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image.convert("RGB")
    layered = image.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layered.size, "white"), layered).convert("RGB")
