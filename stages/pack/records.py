"""Turn an image into its record in a pack."""

import numpy as np
import PIL.Image
import simplejpeg

from data_schemas.images.packed_images import Record
from stages.components.images.decoding import ImageRejected
from stages.components.images.image_set import ImageSet
from stages.components.images.lazy_image import JpegImage, LazyImage, to_image

_LONGEST_JPEG_SIDE = 65_500
_SUBSAMPLING = "420"


class RecordMaker:
    """A function that makes records of images, each from its image alone.

    Args:
        images: Set of images.
        short_side: Shorter side in pixels, to which larger images are shrunk by Pillow's antialiased bicubic, as
            evaluation does. 0 leaves all as they are.
        format_: Format of the records: ``jpeg`` or ``raw``.
        quality: Quality of JPEG. A plain upright JPEG that need not be shrunk keeps its bytes.
    """

    def __init__(self, images: ImageSet, *, short_side: int, format_: str, quality: int) -> None:
        self._images = images
        self._short_side = short_side
        self._format = format_
        self._quality = quality

    def __call__(self, number: int) -> Record | str:
        """Read an image of the set; return its record, or the reason why there is none."""
        try:
            return self._record(self._images.open(number))
        except ImageRejected as error:
            return error.reason

    def _record(self, source: LazyImage) -> Record:
        height, width = size = _shrunk(source.size, self._short_side)
        image = to_image(source)  # decoded even if it keeps its bytes, to find damage here and not in training
        if self._format == "jpeg" and size == source.size and isinstance(source, JpegImage):
            return Record(bytes(source.data), height, width)
        if size != source.size:
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
    """Return height and width after a longer short side has been shrunk to ``short_side``."""
    short = min(size)
    if not short_side or short <= short_side:
        return size
    height, width = (side * short_side // short for side in size)
    return height, width
