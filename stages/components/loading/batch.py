"""Batches of images, with the reasons of those that could not be read."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from stages.components.images.decoding import ImageRejected
from stages.components.images.image_set import ImageSet
from stages.components.images.transforms import EvalTransform
from stages.components.loading.worker_trace import no_line


@dataclass(frozen=True)
class Batch:
    """Images that could be read, and why the others could not.

    Shapes:
        images: (batch, 3, size, size), uint8; where they are still to be resized, (all pixels, 3), one image after
            the other, each row by row. Or their features, (batch, feature_dim), float32.
        rows: (batch,), int64: each image's pair, or its number in a set.
        seeds: (batch,), int64, of the augmentation; empty where nothing is left to augment.
        sizes: (batch, 2), int64, heights and widths; empty where nothing is left to resize.
        is_taken: (1,), bool: whether the images' shared memory is still in use; empty for other memory.
    """

    images: Tensor
    rows: Tensor
    rejected: dict[int, str]
    seeds: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    sizes: Tensor = field(default_factory=lambda: torch.empty(0, 2, dtype=torch.int64))
    is_taken: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.bool))

    def pin_memory(self) -> "Batch":
        """Pin the images' memory, so that a GPU copies them in the background; the other tensors stay on the CPU."""
        images = self.images.pin_memory()
        self.is_taken.fill_(False)
        return replace(self, images=images)


class EvalImages(Dataset[tuple[int, Tensor | str]]):
    """A dataset of images by number, transformed as for evaluation; an unreadable one yields the reason.

    Args:
        images: Set of images.
        transform: Transform of each image.
    """

    def __init__(self, images: ImageSet, transform: EvalTransform) -> None:
        self._images = images
        self._transform = transform
        self.image_bytes = transform.image_bytes
        self.line = no_line()

    def path_of(self, number: int) -> str:
        """Return an image's path, as its set writes it."""
        return self._images.paths[number]

    def __len__(self) -> int:
        return len(self._images.paths)

    def __getitems__(self, numbers: list[int]) -> list[tuple[int, Tensor | str]]:
        """Read several images, as `__getitem__` reads one."""
        self._images.read_ahead(numbers)
        return [self[number] for number in numbers]

    def __getitem__(self, number: int) -> tuple[int, Tensor | str]:
        """Read one image: return its number, and the image as (3, size, size), uint8, or the reason."""
        self.line[-1] = number
        try:
            return number, self._transform(self._images.open(number))
        except ImageRejected as error:
            return number, error.reason


def collate(samples: Sequence[tuple[int, Tensor | str]]) -> Batch:
    """Stack the images that could be read; keep the reasons of the others."""
    images = [image for _, image in samples if isinstance(image, Tensor)]
    rows = [row for row, image in samples if isinstance(image, Tensor)]
    rejected = {row: reason for row, reason in samples if isinstance(reason, str)}
    # Decoded images have their channels last, as students take them: stacking them so moves no bytes.
    stacked = torch.stack([image.permute(1, 2, 0) for image in images]) if images else torch.empty(0, 0, 0, 3).byte()
    stacked = stacked.permute(0, 3, 1, 2)
    return Batch(images=stacked, rows=torch.tensor(rows, dtype=torch.int64), rejected=rejected)


def collate_unsized(samples: Sequence[tuple[int, NDArray[np.uint8] | str]]) -> Batch:
    """Concatenate the readable images, of any sizes; keep the reasons of the others.

    Shapes:
        samples: (height, width, 3) each.
    """
    images = [image for _, image in samples if not isinstance(image, str)]
    rows = [row for row, image in samples if not isinstance(image, str)]
    rejected = {row: reason for row, reason in samples if isinstance(reason, str)}
    sizes = np.array([image.shape[:2] for image in images], np.int64).reshape(-1, 2)
    ends = np.cumsum(sizes.prod(axis=1))
    pixels = np.empty((int(sizes.prod(axis=1).sum()), 3), np.uint8)
    for image, end in zip(images, ends.tolist(), strict=True):
        height, width, _ = image.shape
        pixels[end - height * width : end].reshape(image.shape)[:] = image
    return Batch(
        images=torch.from_numpy(pixels),
        rows=torch.tensor(rows, dtype=torch.int64),
        rejected=rejected,
        sizes=torch.from_numpy(sizes),
    )
