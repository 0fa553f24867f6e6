"""From a picture to its record."""

import numpy as np
import PIL.Image
import simplejpeg

from data_schemas.packed_images import Record
from stages.components.images.decoding import ImageRejected
from stages.components.images.image_set import ImageSet
from stages.components.images.lazy_image import JpegPicture, Picture, to_image

_LONGEST_JPEG_SIDE = 65_500
_SUBSAMPLING = "420"


class RecordMaker:
    """Makes records of pictures, each a function of the picture alone.

    Args:
        images: the pictures.
        short_side: in pixels; larger pictures are shrunk to it by Pillow's antialiased bicubic, as evaluation would
            shrink them. 0 leaves all as they are.
        format_: ``jpeg`` or ``raw``.
        quality: of JPEG. A plain upright JPEG that is not to be shrunk keeps its bytes.
    """

    def __init__(self, images: ImageSet, *, short_side: int, format_: str, quality: int) -> None:
        self._images = images
        self._short_side = short_side
        self._format = format_
        self._quality = quality

    def __call__(self, number: int) -> Record | str:
        """Read a picture of the set: its record, or why there is none."""
        try:
            return self._record(self._images.open(number))
        except ImageRejected as error:
            return error.reason

    def _record(self, picture: Picture) -> Record:
        height, width = size = _shrunk(picture.size, self._short_side)
        image = to_image(picture)  # also of one that keeps its bytes: damage is found here, not in training
        if self._format == "jpeg" and size == picture.size and isinstance(picture, JpegPicture):
            return Record(bytes(picture.data), height, width)
        if size != picture.size:
            image = image.resize((width, height), PIL.Image.Resampling.BICUBIC)
        if self._format == "raw":
            return Record(image.tobytes(), height, width)
        if max(size) > _LONGEST_JPEG_SIDE:
            raise ImageRejected(f"a side of more than {_LONGEST_JPEG_SIDE} pixels, which JPEG cannot hold")
        data = simplejpeg.encode_jpeg(
            np.asarray(image), quality=self._quality, colorspace="RGB", colorsubsampling=_SUBSAMPLING
        )
        return Record(data, height, width)


def _shrunk(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Height and width after the short side, where it is longer, has become ``short_side``."""
    short = min(size)
    if not short_side or short <= short_side:
        return size
    height, width = (side * short_side // short for side in size)
    return height, width
