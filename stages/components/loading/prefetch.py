"""Copy batches to a device, and results back, while it computes on others."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from stages.components.loading.batch import Batch


def prefetch_to_device(batches: Iterable[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield batches whose images are being copied to the device.

    For a GPU the copy runs in a stream of its own, beside what the device still computes; the student's stream waits
    for it, the host does not. For other devices batches stay as they are.

    Args:
        batches: Batches, with pinned memory for a GPU.
        device: Device of the student.
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
        images.record_stream(current)  # its memory is not reused before the student is done with it
        yield replace(batch, images=images)


def results_on_cpu(
    batches: Iterable[Batch], compute: Callable[[Tensor], Sequence[Tensor]], device: torch.device
) -> Iterator[tuple[Batch, list[Tensor]]]:
    """Yield each batch, and on the CPU the results that are computed from its images.

    From a GPU results come one batch late: the GPU computes the next batch while they are copied and stored. The host
    is at most one batch ahead.

    Args:
        batches: Batches, as `prefetch_to_device` takes them.
        compute: Computes results on the device from images, which are on it if it is a GPU.
        device: Device of the student.
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
    """Tensors that are being copied to the CPU."""

    def __init__(self, tensors: Sequence[Tensor], device: torch.device) -> None:
        is_gpu = device.type == "cuda"
        self._tensors = [tensor.to("cpu", non_blocking=is_gpu) for tensor in tensors]  # torch pins the target by itself
        self._arrived = torch.cuda.Event(blocking=True) if is_gpu else None  # type: ignore[no-untyped-call]
        if self._arrived is not None:
            self._arrived.record(torch.cuda.current_stream(device))

    def wait(self) -> list[Tensor]:
        if self._arrived is not None:
            self._arrived.synchronize()
        return self._tensors
