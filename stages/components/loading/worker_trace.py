"""Record which image each reader opened last, in shared memory that outlives the reader."""

import os
import time

import numpy as np
import torch
from numpy.typing import NDArray

from stages.components.compute.shared_memory import share

NO_IMAGE = -1
"""Number in place of an image that was never opened."""

_PATIENCE_S = 1.0  # a process that has ended may still exist for a moment
_POLL_S = 0.02


class WorkerTrace:
    """A line for each reader: its process id, and the number of the image that it opened last.

    Args:
        num: Number of readers.
    """

    def __init__(self, num: int) -> None:
        self._lines = share(torch.full((num, 2), NO_IMAGE))

    def line(self, place: int) -> NDArray[np.int64]:
        """Return the line of the calling reader, which writes the number of each image into its last element."""
        line: NDArray[np.int64] = self._lines[place].numpy()
        line[0] = os.getpid()
        return line

    def last_opened(self) -> list[int]:
        """Return the image that each reader has opened last; `NO_IMAGE` for one that has opened none."""
        numbers: list[int] = self._lines[:, -1].tolist()
        return numbers

    def of_the_dead(self) -> list[int]:
        """Return the images that dead readers had opened last."""
        deadline = time.monotonic() + _PATIENCE_S
        dead: list[list[int]] = []
        while not dead and time.monotonic() < deadline:
            time.sleep(_POLL_S)
            dead = [[process, number] for process, number in self._lines.tolist() if _is_dead(process)]
        return [number for _, number in dead if number != NO_IMAGE]


def no_line() -> NDArray[np.int64]:
    """Return a line for reading in the main process, which nobody looks at."""
    return np.full(2, NO_IMAGE)


def _is_dead(process: int) -> bool:
    if process == NO_IMAGE:
        return False
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return True
    return False
