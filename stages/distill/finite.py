"""A training that has left the finite numbers is stopped before anything of it is saved."""

import torch
from torch import Tensor

from data_schemas.errors import ProtoRKDError


class LossWatch:
    """Looks at every step's loss; on a GPU one step later, so that the device is never waited for.

    Args:
        device: where the losses are.
    """

    def __init__(self, device: torch.device) -> None:
        self._waits = device.type == "cuda"
        self._pending: tuple[int, list[int], Tensor] | None = None

    def look(self, loss: Tensor, *, step: int, rows: list[int], last_good: str) -> None:
        """Take the loss of a step, and judge those that have arrived.

        Args:
            loss: (), float.
            step: the step's number, from 1.
            rows: manifest rows of the step's pictures, for the message.
            last_good: what can be gone on from, for the message.

        Raises:
            ProtoRKDError: a loss is infinite or not a number.
        """
        if not self._waits:
            _judge(loss, step, rows, last_good)
            return
        self.settle(last_good)
        arriving = torch.empty((), pin_memory=True)
        arriving.copy_(loss.detach(), non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record()
        self._event, self._pending = event, (step, rows, arriving)

    def settle(self, last_good: str) -> None:
        """Judge what has not been judged, before a state is saved.

        Raises:
            ProtoRKDError: a loss is infinite or not a number.
        """
        if self._pending is None:
            return
        self._event.synchronize()
        (step, rows, loss), self._pending = self._pending, None
        _judge(loss, step, rows, last_good)


def _judge(loss: Tensor, step: int, rows: list[int], last_good: str) -> None:
    if loss.isfinite():
        return
    named = ", ".join(map(str, rows[:8])) + (", ..." if len(rows) > 8 else "")
    raise ProtoRKDError(
        f"The loss must stay finite; got {float(loss)} at step {step} (manifest rows {named}). Nothing of that step is "
        f"kept; the last good state is {last_good}. Try a lower --lr, more --warmup-steps or --precision fp32."
    )
