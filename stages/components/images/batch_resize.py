"""Resize a batch of images of any sizes to one size at once, on the device of their pixels."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from stages.components.compute.device import send

MILD_SHRINK = 1.6
"""Images whose longer side is shrunk by less than this, and not enlarged, need no antialiasing."""

# Pixels between the passes that are held at once: what fits a CPU's cache, and a third of a GB on a GPU.
_PIXELS_CPU, _PIXELS_GPU = 1 << 16, 1 << 23


def resize_batch(pixels: Tensor, sizes: Tensor, *, size: int, interpolation: str) -> Tensor:
    """Resize images as `TrainCrop` does: mild shrinks linearly, all else with antialiasing.

    One pass goes along rows, then one along columns, in float32: each pixel of the result is a weighted sum of pixels
    that are gathered tap by tap, in the same order for every image, so that the other images of a batch change nothing.
    Launches depend only on the sizes, which the CPU knows: nothing is read back from the device.

    Args:
        pixels: Pixels of all images, one image after the other, each row by row.
        sizes: Height and width of each image, in pixels.
        size: Side of the results, in pixels.
        interpolation: "bicubic" or "bilinear", where a shrink is not mild.

    Shapes:
        pixels: (all pixels, 3), uint8, on any device.
        sizes: (batch, 2), int64, on the CPU.
        returns: (batch, 3, size, size), uint8, channels last, on the device of the pixels.
    """
    shapes = sizes.numpy()
    starts = np.cumsum(shapes.prod(axis=1)) - shapes.prod(axis=1)
    images = pixels.new_empty(len(shapes), size, size, 3)
    most = _PIXELS_CPU if pixels.device.type == "cpu" else _PIXELS_GPU
    for numbers, kernel in _groups(shapes, size, _KERNELS[interpolation], most_rows=max(1, most // size)):
        places = np.concatenate([numbers[:, None], starts[numbers, None], shapes[numbers]], axis=1)
        where, *place = send(torch.from_numpy(places), pixels.device).unbind(dim=1)
        taps = [kernel.num_taps(int(side.max()), size) for side in shapes[numbers].T]
        num_rows = int(shapes[numbers, 0].sum())
        images.index_copy_(0, where, _resize(pixels, *place, size=size, kernel=kernel, taps=taps, num_rows=num_rows))
    return images.permute(0, 3, 1, 2)


class _Kernel(NamedTuple):
    """An interpolation kernel, over distances in source pixels, or in output pixels where a shrink is antialiased."""

    weigh: Callable[[Tensor], Tensor]
    radius: int
    antialias: bool

    def num_taps(self, longest: int, size: int) -> int:
        """Return how many source pixels a pixel of the result has at most, in lines of ``longest`` pixels or fewer."""
        return math.ceil(2 * self.radius * (max(1.0, longest / size) if self.antialias else 1.0))

    def taps(self, lengths: Tensor, *, size: int, num: int) -> tuple[Tensor, Tensor]:
        """Find the source pixels of each pixel of the result, as Pillow does.

        Shapes:
            lengths: (images,), int64.
            returns: number of the first one, (images, size), int64; weights, (num, images, size), float32, 0 beyond the
                line.
        """
        scales = (lengths / size)[:, None]
        stretch = scales.clamp_min(1) if self.antialias else 1.0
        centres = (torch.arange(size, device=lengths.device) + 0.5) * scales
        first = (centres - self.radius * stretch + 0.5).floor().clamp_min_(0)
        places = first + torch.arange(num, device=lengths.device)[:, None, None]
        weights = self.weigh((places + 0.5 - centres).abs_() / stretch)
        weights *= places < lengths[:, None]
        return first.long(), weights / weights.sum(dim=0)


def _cubic(distance: Tensor) -> Tensor:
    """Keys' kernel with a = -0.5, as Pillow has it."""
    near = (1.5 * distance - 2.5) * distance**2 + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    return torch.where(distance < 1, near, torch.where(distance < 2, far, 0))


def _triangle(distance: Tensor) -> Tensor:
    return (1 - distance).clamp_min_(0)


_KERNELS = {"bicubic": _Kernel(_cubic, 2, antialias=True), "bilinear": _Kernel(_triangle, 1, antialias=True)}
_MILD = _Kernel(_triangle, 1, antialias=False)


def _groups(
    shapes: NDArray[np.int64], size: int, kernel: _Kernel, *, most_rows: int
) -> Iterator[tuple[NDArray[np.int64], _Kernel]]:
    """Group images by kernel and by number of taps, with at most ``most_rows`` rows in a group.

    Yields:
        Numbers of images, and their kernel.
    """
    longer = shapes.max(axis=1, initial=0)
    is_mild = (size <= longer) & (longer < MILD_SHRINK * size)
    for chosen, of_kernel in ((is_mild, _MILD), (~is_mild, kernel)):
        numbers = np.flatnonzero(chosen)
        numbers = numbers[np.argsort(longer[numbers], kind="stable")]
        while len(numbers):
            num = max(1, int(np.searchsorted(np.cumsum(shapes[numbers, 0]), most_rows, side="right")))
            yield numbers[:num], of_kernel
            numbers = numbers[num:]


def _resize(
    pixels: Tensor,
    starts: Tensor,
    heights: Tensor,
    widths: Tensor,
    *,
    size: int,
    kernel: _Kernel,
    taps: list[int],
    num_rows: int,
) -> Tensor:
    """Resize a group of images.

    Shapes:
        starts, heights, widths: (images,), int64: first pixel of each image, and its sides.
        returns: (images, size, size, 3), uint8.
    """
    ends = heights.cumsum(0)
    row = torch.arange(num_rows, device=pixels.device)
    owner = torch.searchsorted(ends, row, right=True)
    row_starts = starts[owner] + (row - (ends - heights)[owner]) * widths[owner]
    first, weights = kernel.taps(widths, size=size, num=taps[1])
    places = row_starts[:, None] + first[owner]
    lines = _weighted(pixels, places, (each[owner].view(-1, 1) for each in weights))  # (rows * size, 3)
    lines = lines.clamp_(0, 255).view(num_rows, 3 * size)
    first, weights = kernel.taps(heights, size=size, num=taps[0])
    places = (ends - heights)[:, None] + first
    images = _weighted(lines, places, (each.view(-1, 1) for each in weights))
    return images.round_().clamp_(0, 255).to(torch.uint8).view(len(starts), size, size, 3)


def _weighted(table: Tensor, places: Tensor, weights: Iterator[Tensor]) -> Tensor:
    """Return the weighted sum of the rows that begin at each place of a table: (places, width), float32."""
    places = places.flatten()
    total = torch.zeros(len(places), table.shape[1], device=table.device)
    for weight in weights:
        total.addcmul_(table.index_select(0, places), weight)
        places = (places + 1).clamp_(max=len(table) - 1)  # past the end the weight is 0
    return total
