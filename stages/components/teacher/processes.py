"""Embed captions on several devices: a process for each, with its own teacher, takes batches as they come."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stages.components.compute.device_processes import DeviceProcesses

if TYPE_CHECKING:
    from stages.components.teacher.batching import Batch
    from stages.components.teacher.teacher import Teacher


class TeacherProcesses(DeviceProcesses):
    """Processes that share batches of captions; embeddings do not depend on the device.

    Args:
        devices: Devices such as "cuda:0"; one may be named more than once.
        options: Arguments of `stages.components.teacher.teacher.Teacher` in each process.
        dim: Width of an embedding.
        num_threads: Number of torch's threads in each process.
    """

    def __init__(self, devices: Sequence[str], options: Mapping[str, Any], *, dim: int, num_threads: int) -> None:
        super().__init__(devices, partial(_load, options), num_threads=num_threads, work="embed captions")
        self._dim = dim

    def start(self, batches: "Sequence[Batch]", *, advance: Callable[[int], None]) -> Callable[[], NDArray[np.float32]]:
        """Hand out batches, the longest captions first.

        Args:
            batches: Batches of captions.
            advance: Called with the number of captions of each batch that is back.

        Returns:
            A function that waits for the embeddings and returns them, in the order of the captions, from any thread. It
            raises the error of a process.

        Raises:
            ProtoRKDError: a process has ended.
        """
        asked = [(batch.rows, self.ask(_embed, len(batch.rows), _as_numpy(batch))) for batch in reversed(batches)]

        def collect() -> NDArray[np.float32]:
            embeddings = np.empty((sum(len(rows) for rows, _ in asked), self._dim), dtype=np.float32)
            for rows, answer in asked:
                embeddings[rows] = self.result(answer)
                advance(len(rows))
            return embeddings

        return collect

    def nearness(self) -> dict[str, float]:
        """Return how near the teacher of one process comes to fp32.

        Raises:
            ProtoRKDError: it cannot be loaded, or a process has ended.
        """
        try:
            cosines: dict[str, float] = self.result(self.ask(_nearness))
        except BaseException:
            self.stop()
            raise
        return cosines


def _load(options: Mapping[str, Any], device: str) -> "Teacher":
    from stages.components.teacher.teacher import Teacher

    return Teacher(**options, devices=(device,))


def _embed(teacher: "Teacher", num_captions: int, features: Mapping[str, Any]) -> NDArray[np.float32]:
    import torch

    from stages.components.teacher.batching import Batch

    tensors = {
        name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for name, value in features.items()
    }
    return teacher.embed([Batch(np.arange(num_captions), tensors)])


def _nearness(teacher: "Teacher") -> dict[str, float]:
    return teacher.nearness


def _as_numpy(batch: "Batch") -> dict[str, Any]:
    """Return a batch's features as arrays, for pickling: tensors would take shared memory, which may be scarce."""
    from torch import Tensor

    return {name: value.numpy() if isinstance(value, Tensor) else value for name, value in batch.features.items()}
