"""Turn a batch of images into the student's input, on the device."""

from collections.abc import Callable

import torch
from torch import Tensor

from stages.components.images.augmentation import Augment
from stages.components.images.transforms import Normalize


def prepares_batches(device: torch.device) -> bool:
    """Tell whether a device resizes and augments images; a CPU does not, there the processes that read do it.

    Only the kind of device decides, so that no setting of speed changes how pixels are rounded.
    """
    return device.type == "cuda"


class DevicePreprocess:
    """Turn a batch's bytes into the student's input.

    Args:
        normalize: Normalisation that the student's preprocessing asks for.
        augment: Augmentation of images that come with seeds, before that; None where it has been done.
        resize: Resize of pixels that come with sizes, before all else; None where it has been done.
    """

    def __init__(
        self, normalize: Normalize, augment: Augment | None, resize: Callable[[Tensor, Tensor], Tensor] | None
    ) -> None:
        self._normalize = normalize
        self._augment = augment
        self._resize = resize

    def __call__(self, images: Tensor, seeds: Tensor, sizes: Tensor) -> Tensor:
        """Resize, augment and normalise.

        Shapes:
            images: (batch, 3, size, size), uint8; or (all pixels, 3), as `resize_batch` takes them.
            seeds: (batch,), int64, on the CPU; none where nothing is to be augmented.
            sizes: (batch, 2), int64, on the CPU; none where nothing is to be resized.
            returns: (batch, 3, size, size), as `Normalize` gives it.
        """
        if self._resize is not None:
            images = self._resize(images, sizes)
        return self._normalize(images if self._augment is None else self._augment(images, seeds))
