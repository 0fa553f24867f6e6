"""A table of rows for passes on a device: in its memory where there is room, else copied there anew at each pass."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

_BLOCK_NUMBERS = 1 << 25  # of float32: 128 MB
_SHARE = 0.5  # of the device's free memory that a table may take; blocks, scores and sums need the rest


@dataclass(frozen=True)
class DeviceTable:
    """Rows that a device goes through from first to last, as often as it is asked to.

    Args:
        host: (rows, dim), float32, on the CPU.
        device: where blocks are wanted.
        resident: the same on the device; None where each pass copies them there.
    """

    host: Tensor
    device: torch.device
    resident: Tensor | None

    @classmethod
    def of(cls, host: Tensor, device: torch.device, *, is_resident: bool) -> "DeviceTable":
        """Make a table, and copy it to the device if it is to stay there."""
        if not is_resident:
            return cls(host, device, None)
        resident = torch.empty(host.shape, device=device)
        for to, block in zip(_split(resident), stream(host, device), strict=True):
            to.copy_(block)
        return cls(host, device, resident)

    def blocks(self) -> Iterator[Tensor]:
        """All rows in order, some at a time, on the device: the same blocks wherever the table lies.

        A block is overwritten while the next but one is asked for.
        """
        return iter(_split(self.resident)) if self.resident is not None else stream(self.host, self.device)


def has_room(num_bytes: int, device: torch.device) -> bool:
    """Whether a table of that size should lie in the device's own memory."""
    return device.type != "cuda" or num_bytes < _SHARE * torch.cuda.mem_get_info(device)[0]


def stream(rows: Tensor, device: torch.device) -> Iterator[Tensor]:
    """Copy rows to a device block by block, each while the device is at work on the one before.

    The way leads through pinned memory, from which a GPU fetches by itself. Two blocks of it, and two on the device,
    take turns: one that was yielded is overwritten once the next but one is asked for, and all that was queued until
    then is done with it.

    Shapes:
        rows: (rows, dim), float32, on the CPU, at least one.
        yields: (some, dim), float32, on the device.
    """
    on = torch.get_device_module(device)  # torch.cpu has streams and events, too, for which nothing has to wait
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
        here.wait_stream(aside)  # also where a pass is broken off: the memory is not another's before


def _split(rows: Tensor) -> tuple[Tensor, ...]:
    return torch.split(rows, max(1, _BLOCK_NUMBERS // rows.shape[1]))
