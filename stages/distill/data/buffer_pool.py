"""Reuse the shared memory in which readers hand over batches: fresh shared memory costs more than a copy."""

from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from stages.components.compute.shared_memory import move_to_shared_memory
from stages.components.loading.batch import Batch

ROOM = 1.25
"""What a slab has room for, of the first batch in it: batches of images of their own sizes differ."""


class BufferPool:
    """Moves images into shared memory that earlier batches have left; each process that reads has its own pool.

    A slab is written to again when the process that received it has copied its batch elsewhere, as
    `Batch.pin_memory` does. Until then others are used: there are as many as batches on their way.
    """

    def __init__(self) -> None:
        self._slabs: list[tuple[Tensor, Tensor]] = []

    def __call__(self, batch: Batch) -> Batch:
        """Move the images of a batch, if it is read in a process of its own."""
        if get_worker_info() is None or not len(batch.rows):
            return batch
        images = batch.images if batch.sizes.numel() else batch.images.permute(0, 2, 3, 1)  # as they lie in memory
        slab, is_taken = self._find(images.numel())
        is_taken.fill_(True)
        moved = slab[: images.numel()].view(images.shape).copy_(images)
        return replace(batch, images=moved if batch.sizes.numel() else moved.permute(0, 3, 1, 2), is_taken=is_taken)

    def _find(self, num_bytes: int) -> tuple[Tensor, Tensor]:
        free = [number for number, (_, is_taken) in enumerate(self._slabs) if not is_taken.item()]
        for number in free:
            if len(self._slabs[number][0]) >= num_bytes:
                return self._slabs[number]
        if free:  # too small, so a larger one takes its place
            del self._slabs[free[0]]
        slab, is_taken = torch.empty(int(ROOM * num_bytes), dtype=torch.uint8), torch.zeros(1, dtype=torch.bool)
        for tensor in (slab, is_taken):
            move_to_shared_memory(tensor)
        self._slabs.append((slab, is_taken))
        return slab, is_taken
