"""Batches on their way to a device while it still computes."""

from collections.abc import Iterable, Iterator
from dataclasses import replace

import torch

from stages.image_batches import Batch


def prefetch_to_device(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield batches whose pictures are on their way to the device.

    On a GPU they travel in a stream of their own, so that the copy goes on beside what the device still computes; the
    stream of the student waits for it, the host does not. Elsewhere batches are what they were.

    Args:
        batches: with pinned memory, if they go to a GPU.
        device: where the student is.
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
        images.record_stream(current)  # its memory is not given to another before the student is through with it
        yield replace(batch, images=images)
