"""Embed captions on several devices: a process for each, with its own teacher, takes batches as they come."""

import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection, wait
from multiprocessing.queues import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from data_schemas.errors import ProtoRKDError

if TYPE_CHECKING:
    from stages.components.teacher.batching import Batch
    from stages.components.teacher.teacher import Teacher

_teacher: "Callable[[], Teacher]"  # set in each process of the pool


class TeacherProcesses:
    """A pool of processes, one for each device, that share batches; embeddings do not depend on the device.

    The processes start with the first batches, and end with this one, however it ends.

    Args:
        devices: Devices such as "cuda:0"; one may be named more than once.
        options: Arguments of `stages.components.teacher.teacher.Teacher` in each process.
        dim: Width of an embedding.
        num_threads: Number of torch's threads in each process.
    """

    def __init__(self, devices: Sequence[str], options: Mapping[str, Any], *, dim: int, num_threads: int) -> None:
        self._devices = devices
        self._dim = dim
        # Not forked: the forkserver belongs to the image readers, and its environment may be older.
        context = multiprocessing.get_context("spawn")
        names: SimpleQueue[str] = context.SimpleQueue()
        for device in devices:
            names.put(device)
        self._ours, self._theirs = context.Pipe()
        self._pool = ProcessPoolExecutor(
            len(devices), context, initializer=_settle, initargs=(options, num_threads, names, self._theirs)
        )

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
        asked = [(batch.rows, self._ask(_embed, len(batch.rows), _as_numpy(batch))) for batch in reversed(batches)]

        def collect() -> NDArray[np.float32]:
            embeddings = np.empty((sum(len(rows) for rows, _ in asked), self._dim), dtype=np.float32)
            for rows, answer in asked:
                embeddings[rows] = self._result(answer)
                advance(len(rows))
            return embeddings

        return collect

    def nearness(self) -> dict[str, float]:
        """Return how near the teacher of one process comes to fp32.

        Raises:
            ProtoRKDError: it cannot be loaded, or a process has ended.
        """
        try:
            cosines: dict[str, float] = self._result(self._ask(_nearness))
        except BaseException:
            self.stop()
            raise
        return cosines

    def finish(self) -> None:
        """Wait for the pending batches, and end the processes."""
        try:
            self._pool.shutdown()
        finally:
            self._ours.close()

    def stop(self) -> None:
        """End the processes at once; pending batches are lost."""
        self._ours.close()
        self._pool.shutdown(cancel_futures=True)

    def _ask(self, function: Callable[..., Any], *args: object) -> "Future[Any]":
        try:
            return self._pool.submit(function, *args)
        except BrokenProcessPool as error:
            raise self._died() from error

    def _result(self, answer: "Future[Any]") -> Any:
        try:
            return answer.result()
        except (BrokenProcessPool, CancelledError) as error:
            raise self._died() from error

    def _died(self) -> ProtoRKDError:
        return ProtoRKDError(
            f"The processes that embed captions on {', '.join(self._devices)} must stay alive; one has ended, most "
            "often because memory ran out. Run the same command again: what was whole is kept."
        )


def _settle(options: Mapping[str, Any], num_threads: int, names: "SimpleQueue[str]", theirs: Connection) -> None:
    """Set up a process: it leaves signals to its parent, and ends with it."""
    global _teacher  # noqa: PLW0603 - what a pool's initializer can leave behind
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_follow, args=(theirs,), daemon=True).start()
    _teacher = functools.cache(functools.partial(_load, options, num_threads, names.get()))


def _follow(theirs: Connection) -> None:
    """End this process when the parent's end of the pipe closes, even inside a library call."""
    wait([theirs])
    os._exit(1)


def _load(options: Mapping[str, Any], num_threads: int, device: str) -> "Teacher":
    import torch

    from stages.components.teacher.teacher import Teacher

    torch.set_num_threads(num_threads)
    return Teacher(**options, devices=(device,))


def _embed(num_captions: int, features: Mapping[str, Any]) -> NDArray[np.float32]:
    import torch

    from stages.components.teacher.batching import Batch

    tensors = {
        name: torch.from_numpy(value) if isinstance(value, np.ndarray) else value for name, value in features.items()
    }
    return _teacher().embed([Batch(np.arange(num_captions), tensors)])


def _nearness() -> dict[str, float]:
    return _teacher().nearness


def _as_numpy(batch: "Batch") -> dict[str, Any]:
    """Return a batch's features as arrays, for pickling: tensors would take shared memory, which may be scarce."""
    from torch import Tensor

    return {name: value.numpy() if isinstance(value, Tensor) else value for name, value in batch.features.items()}
