"""A table of rows that a device passes over: in its memory if it fits, else copied there anew in each pass."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_BLOCK_NUMBERS = 1 << 25  # of float32: 128 MB
_SHARE = 0.5  # of the device's free memory that a table may take; blocks, scores and sums need the rest


@dataclass(frozen=True)
class DeviceTable:
    """A table of rows that a device passes over in order, any number of times.

    Args:
        host: Rows on the CPU, (rows, dim), float32.
        device: Device that blocks are returned on.
        resident: The same rows on the device; None if each pass copies them there.
    """

    host: Tensor
    device: torch.device
    resident: Tensor | None

    @classmethod
    def of(cls, host: Tensor, device: torch.device, *, is_resident: bool) -> "DeviceTable":
        """Make a table, and copy it to the device if it is resident."""
        if not is_resident:
            return cls(host, device, None)
        resident = torch.empty(host.shape, device=device)
        for into, block in zip(_split(resident), stream(host, device), strict=True):
            into.copy_(block)
        return cls(host, device, resident)

    def blocks(self) -> Iterator[Tensor]:
        """Return all rows in order, block by block, on the device; blocks are the same for resident tables and others.

        A block is overwritten when the next but one is requested.
        """
        return iter(_split(self.resident)) if self.resident is not None else stream(self.host, self.device)


def has_room(num_bytes: int, device: torch.device) -> bool:
    """Return whether a table of that size should be kept in the device's memory."""
    return device.type != "cuda" or num_bytes < _SHARE * torch.cuda.mem_get_info(device)[0]


def stream(rows: Tensor, device: torch.device) -> Iterator[Tensor]:
    """Copy rows to a device block by block, each while the device computes on the one before.

    Copies go through pinned memory. Two pinned blocks, and two on the device, take turns: a yielded block is
    overwritten once the next but one is requested and all work that was queued until then is done.

    Shapes:
        rows: (rows, dim), float32, on the CPU, at least one.
        yields: (some, dim), float32, on the device.
    """
    on = torch.get_device_module(device)  # torch.cpu has streams and events, too; they do nothing
    here, aside = on.current_stream(device), on.Stream(device)
    parts = _split(rows)
    pinned = [torch.empty(parts[0].shape, pin_memory=device.type == "cuda") for _ in range(2)]
    there = [torch.empty(parts[0].shape, device=device) for _ in range(2)]
    copied, used = [on.Event(), on.Event()], [on.Event(), on.Event()]

    def send(number: int) -> None:
        slot, num = number % 2, len(parts[number])
        copied[slot].synchronize()
        pinned[slot][:num].copy_(parts[number])
        used[slot].wait(aside)
        with on.stream(aside):
            there[slot][:num].copy_(pinned[slot][:num], non_blocking=True)
        copied[slot].record(aside)

    aside.wait_stream(here)  # what this memory held before may still be in use
    try:
        send(0)
        for number, part in enumerate(parts):
            if number + 1 < len(parts):
                send(number + 1)
            copied[number % 2].wait(here)
            yield there[number % 2][: len(part)]
            used[number % 2].record(here)
    finally:
        here.wait_stream(aside)  # also if a pass is broken off: the memory is not reused before


def _split(rows: Tensor) -> tuple[Tensor, ...]:
    return torch.split(rows, max(1, _BLOCK_NUMBERS // rows.shape[1]))
