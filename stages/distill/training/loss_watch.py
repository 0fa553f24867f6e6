"""Stop a training whose loss or gradient is not finite, before any of its state is saved."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from data_schemas.errors import ProtoRKDError


class LossWatch:
    """Checks every step's loss and gradient; on a GPU one step later, so that the device is never waited for.

    Args:
        device: Device on which the losses are.
    """

    def __init__(self, device: torch.device) -> None:
        self._waits = device.type == "cuda"
        self._pending: list[tuple[torch.cuda.Event, _Number]] = []

    def look(
        self, value: Tensor, *, name: str = "loss", step: int, rows: Callable[[], list[int]], last_good: str
    ) -> None:
        """Take a number of a step, and check those of earlier steps.

        Args:
            value: Loss or norm of the gradient: (), float.
            name: Name of the number, for the message.
            step: Number of the step, from 1.
            rows: Looks up the manifest rows of the step's images, for the message alone.
            last_good: State that training can go on from, for the message.

        Raises:
            ProtoRKDError: it, or one before it, is infinite or NaN.
        """
        if not self._waits:
            _judge(_Number(value, name, step, rows), last_good)
            return
        self._settle(step, last_good)
        arriving = torch.empty((), pin_memory=True)
        arriving.copy_(value.detach(), non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(value.device))  # which need not be the current device's
        self._pending.append((event, _Number(arriving, name, step, rows)))

    def settle(self, last_good: str) -> None:
        """Check all numbers that are still unchecked, before a state is saved.

        Raises:
            ProtoRKDError: some of it is infinite or NaN.
        """
        self._settle(None, last_good)

    def _settle(self, before: int | None, last_good: str) -> None:
        while self._pending and (before is None or self._pending[0][1].step < before):
            event, number = self._pending.pop(0)
            event.synchronize()
            _judge(number, last_good)


class _Number(NamedTuple):
    value: Tensor
    name: str
    step: int
    rows: Callable[[], list[int]]


def _judge(number: _Number, last_good: str) -> None:
    value, name, step, rows = number
    if value.isfinite():
        return
    numbers = rows()
    named = ", ".join(map(str, numbers[:8])) + (", ..." if len(numbers) > 8 else "")
    raise ProtoRKDError(
        f"The {name} must stay finite; got {float(value)} at step {step} (manifest rows {named}). Nothing of that step "
        f"is kept; the last good state is {last_good}. Try a lower --lr, more --warmup-steps or --precision fp32."
    )
