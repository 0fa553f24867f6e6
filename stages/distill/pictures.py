"""The way of a batch of pictures from memory to the student: sent ahead, and made its input on the device."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from stages.augmentation import Augment
from stages.image_batches import Batch
from stages.transforms import Normalize


def sent_ahead(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield batches whose pictures are on their way to the device.

    On a GPU they travel in a stream of their own, so that the copy goes on beside what the device still computes; the
    stream of training waits for it, the host does not. Elsewhere batches are what they were.

    Args:
        batches: with pinned memory, if they go to a GPU.
        device: where the student trains.
    """
    if device.type != "cuda":
        yield from batches
        return
    aside = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
    for batch in batches:
        with torch.cuda.stream(aside):
            images = batch.images.to(device, non_blocking=True)
        current = torch.cuda.current_stream(device)
        current.wait_stream(aside)
        images.record_stream(current)  # its memory is not given to another before the step is through with it
        yield replace(batch, images=images)


def prepares_batches(device: torch.device) -> bool:
    """Whether a device resizes and augments pictures; a CPU has its hands full: there the processes that read do it.

    Nothing but the kind of device decides, so that no setting of speed changes how pixels are rounded.
    """
    return device.type == "cuda"


class Prepare:
    """From bytes to the student's input.

    Args:
        normalize: what the student's preprocessing asks for.
        augment: what is done before, to pictures that come with seeds; None where that has been done.
        resize: what is done first, to pixels that come with sizes; None where that has been done.
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
