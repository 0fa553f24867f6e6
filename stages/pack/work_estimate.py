"""Estimate the size of a pack from the headers and sizes of some of its images."""

import contextlib

from stages.components.images.decoding import ImageRejected
from stages.components.images.image_set import ImageSet

_SAMPLE = 64


def packed_bytes(images: ImageSet, *, short_side: int, format_: str) -> int | None:
    """Estimate the bytes of a pack from about 64 images, taken evenly; None if none of them can be read.

    A raw record has three bytes a pixel; a JPEG's bytes are taken to shrink with its area.

    Args:
        images: Images to pack.
        short_side: Greatest length of the shorter side, in pixels; 0 shrinks none.
        format_: Format of the records: ``jpeg`` or ``raw``.
    """
    num = len(images.paths)
    sizes = []
    for number in range(0, num, max(1, num // _SAMPLE)):
        with contextlib.suppress(ImageRejected, OSError):
            height, width = images.open(number).size
            shrink = min(1.0, short_side / min(height, width)) if short_side else 1.0
            whole = 3 * height * width if format_ == "raw" else images.stored_bytes(number)
            sizes.append(whole * shrink**2)
    return round(num * sum(sizes) / len(sizes)) if sizes else None
