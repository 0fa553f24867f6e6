"""Which image each process that reads is at, told in memory that outlives the process."""

import os
import time

import numpy as np
import torch
from numpy.typing import NDArray

from stages.components.compute.shared_memory import share

_NONE = -1
_PATIENCE_S = 1.0  # a process that has ended may be seen a little longer
_POLL_S = 0.02


class WorkerTrace:
    """A line for each process: its number in the system, and that of the image that it opened last.

    Args:
        num: processes.
    """

    def __init__(self, num: int) -> None:
        self._lines = share(torch.full((num, 2), _NONE))

    def line(self, place: int) -> NDArray[np.int64]:
        """The line of the process that calls this; it puts the number of each image into its last element."""
        line: NDArray[np.int64] = self._lines[place].numpy()
        line[0] = os.getpid()
        return line

    def of_the_dead(self) -> list[int]:
        """The images that processes which are no more had opened last."""
        deadline = time.monotonic() + _PATIENCE_S
        dead: list[list[int]] = []
        while not dead and time.monotonic() < deadline:
            time.sleep(_POLL_S)
            dead = [[process, number] for process, number in self._lines.tolist() if _is_dead(process)]
        return [number for _, number in dead if number != _NONE]


def no_line() -> NDArray[np.int64]:
    """A line for what reads in the process itself, whose end nobody is left to explain."""
    return np.full(2, _NONE)


def _is_dead(process: int) -> bool:
    if process == _NONE:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False
