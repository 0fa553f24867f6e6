"""Batches on their way to a device, and results on their way back, while it computes others."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from stages.components.loading.batch import Batch


def prefetch_to_device(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield batches whose images are on their way to the device.

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


def results_on_cpu(
    batches: Iterable[Batch], compute: Callable[[Tensor], Sequence[Tensor]], device: torch.device
) -> Iterator[tuple[Batch, list[Tensor]]]:
    """Yield each batch, and on the CPU what is computed from its images.

    From a GPU they come one late: it has the next batch to compute while the results of one travel, in pinned memory,
    and while they are put away. So the host waits for no batch that it has just asked for, and is one ahead at most.

    Args:
        batches: as `prefetch_to_device` takes them.
        compute: from images, on the device if that is a GPU, to results on the device.
        device: where the student is.
    """
    most_owed = 1 if device.type == "cuda" else 0
    owed: deque[tuple[Batch, _Results]] = deque()
    for batch in prefetch_to_device(batches, device):
        owed.append((batch, _Results(compute(batch.images), device)))
        if len(owed) > most_owed:
            done, results = owed.popleft()
            yield done, results.wait()
    for done, results in owed:
        yield done, results.wait()


class _Results:
    """Tensors on their way to the CPU."""

    def __init__(self, tensors: Sequence[Tensor], device: torch.device) -> None:
        is_gpu = device.type == "cuda"
        self._tensors = [tensor.to("cpu", non_blocking=is_gpu) for tensor in tensors]  # which a GPU pins by itself
        self._arrived = torch.cuda.Event(blocking=True) if is_gpu else None  # type: ignore[no-untyped-call]
        if self._arrived is not None:
            self._arrived.record(torch.cuda.current_stream(device))

    def wait(self) -> list[Tensor]:
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._tensors
