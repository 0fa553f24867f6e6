"""Draw the boxes of random crops from an image's size and a seed."""

import math
from dataclasses import dataclass

import numpy as np

from stages.components.images.lazy_image import Pixels

_RATIO = (3 / 4, 4 / 3)
_NUM_TRIES = 10


@dataclass(frozen=True)
class Box:
    """A rectangle of an image, in pixels of the full-size image."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, pixels: Pixels, size: tuple[int, int]) -> Pixels:
        """Cut the box out of an image that may have been shrunk while decoding, without a copy.

        Args:
            pixels: Pixels of the whole image.
            size: Height and width of the image before it was shrunk.

        Shapes:
            pixels: (height, width, 3), uint8.
            returns: the same, smaller, with at least one pixel.
        """
        long = 0 if size[0] > size[1] else 1
        factor = round(8 * pixels.shape[long] / size[long]) / 8  # JPEG shrinks by eighths, and rounds the last pixel up
        return pixels[_span(self.top, self.height, factor), _span(self.left, self.width, factor)]


def draw_box(size: tuple[int, int], *, min_scale: float, seed: int) -> Box:
    """Draw the box of a random resized crop: ten tries at an area and a ratio of sides, then the middle.

    Args:
        size: Height and width of the image.
        min_scale: Least share of the image's area that the box covers.
        seed: Seed of the draw; the same seed gives the same box.
    """
    height, width = size
    draws: list[float] = np.random.default_rng(seed).random(2 * _NUM_TRIES + 2).tolist()
    low, high = map(math.log, _RATIO)
    for share, ratio in zip(draws[:_NUM_TRIES], draws[_NUM_TRIES:-2], strict=True):
        area = height * width * (min_scale + (1 - min_scale) * share)
        sides = math.exp(low + (high - low) * ratio)
        box_width, box_height = round(math.sqrt(area * sides)), round(math.sqrt(area / sides))
        if 0 < box_width <= width and 0 < box_height <= height:
            top, left = (
                int(draw * (room + 1))
                for draw, room in zip(draws[-2:], (height - box_height, width - box_width), strict=True)
            )
            return Box(top, left, box_height, box_width)
    box_height, box_width = min(height, round(width / _RATIO[0])), min(width, round(height * _RATIO[1]))
    return Box((height - box_height) // 2, (width - box_width) // 2, box_height, box_width)


def _span(start: int, length: int, factor: float) -> slice:
    first = round(start * factor)
    return slice(first, max(first + 1, round((start + length) * factor)))
