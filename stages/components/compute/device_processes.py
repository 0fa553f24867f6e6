"""A process for each of several devices, with a model of its own: they take work as it comes, and end together."""

import functools
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import CancelledError, Future, ProcessPoolExecutor
from concurrent.futures import wait as wait_for
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection, wait
from multiprocessing.queues import SimpleQueue
from typing import Any

from data_schemas.errors import ProtoRKDError

LOOK_S = 0.5
"""Seconds after which a wait for processes looks how far they are."""

_load: Callable[[], Any]  # set in each process
_done: Any  # units done by each process, in shared memory
_place: int  # number of this process


class DeviceProcesses:
    """A pool of processes, one for each device.

    The processes start with the first work, and end with this one, however it ends.

    Args:
        devices: Devices such as "cuda:0"; one may be named more than once.
        load: Loads the model of a process onto its device; called with the device's name, before the first work.
        num_threads: Number of torch's threads in each process.
        work: What they do, for messages, such as "embed captions".
    """

    def __init__(self, devices: Sequence[str], load: Callable[[str], Any], *, num_threads: int, work: str) -> None:
        self._devices, self._work = devices, work
        # Not forked: the forkserver belongs to the image readers, and its environment may be older.
        context = multiprocessing.get_context("spawn")
        places: SimpleQueue[int] = context.SimpleQueue()
        for place in range(len(devices)):
            places.put(place)
        self._counts = context.RawArray("q", len(devices))
        self._ours, self._theirs = context.Pipe()
        self._pool = ProcessPoolExecutor(
            len(devices),
            context,
            initializer=_settle,
            initargs=(
                functools.partial(_load_on, load, num_threads),
                tuple(devices),
                places,
                self._counts,
                self._theirs,
            ),
        )

    def ask(self, function: Callable[..., Any], *args: object) -> "Future[Any]":
        """Have a process call a function with its model and the arguments.

        Raises:
            ProtoRKDError: a process has ended.
        """
        try:
            return self._pool.submit(_call, function, *args)
        except BrokenProcessPool as error:
            raise self._died() from error

    def result(self, answer: "Future[Any]") -> Any:
        """Wait for what a function returned, or raise its error.

        Raises:
            ProtoRKDError: a process has ended.
        """
        try:
            return answer.result()
        except (BrokenProcessPool, CancelledError) as error:
            raise self._died() from error

    def results(self, answers: "Sequence[Future[Any]]", *, advance: Callable[[int], None]) -> list[Any]:
        """Wait for several answers, or raise the first error.

        Args:
            answers: What `ask` returned.
            advance: Called with the number of units that the processes have counted meanwhile.

        Raises:
            ProtoRKDError: a process has ended.
        """
        told, pending = 0, set(answers)
        while pending:
            ended, pending = wait_for(pending, timeout=LOOK_S)
            for answer in ended:
                self.result(answer)
            done = sum(self._counts)
            advance(done - told)
            told = done
        return [self.result(answer) for answer in answers]

    def finish(self) -> None:
        """Wait for the pending work, and end the processes."""
        try:
            self._pool.shutdown()
        finally:
            self._ours.close()

    def stop(self) -> None:
        """End the processes at once; pending work is lost."""
        self._ours.close()
        self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> "DeviceProcesses":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.finish() if kind is None else self.stop()

    def _died(self) -> ProtoRKDError:
        return ProtoRKDError(
            f"The processes that {self._work} on {', '.join(self._devices)} must stay alive; one has ended, most "
            "often because memory ran out. Run the same command again: what was whole is kept."
        )


def count(units: int) -> None:
    """Count units that this process has done, for the one that waits for it."""
    _done[_place] += units


def _settle(
    load: Callable[[str], Any],
    devices: Sequence[str],
    places: "SimpleQueue[int]",
    counts: Any,
    theirs: Connection,
) -> None:
    """Set up a process: it leaves signals to its parent, ends with it, and reads images with its share of the cores."""
    global _load, _done, _place  # noqa: PLW0603 - what a pool's initializer can leave behind
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    threading.Thread(target=_follow, args=(theirs,), daemon=True).start()
    os.environ["LOCAL_WORLD_SIZE"] = str(len(devices))
    _done, _place = counts, places.get()
    _load = functools.cache(functools.partial(load, devices[_place]))


def _follow(theirs: Connection) -> None:
    """End this process when the parent's end of the pipe closes, even inside a library call."""
    wait([theirs])
    os._exit(1)


def _load_on(load: Callable[[str], Any], num_threads: int, device: str) -> Any:
    import torch

    torch.set_num_threads(num_threads)
    return load(device)


def _call(function: Callable[..., Any], *args: object) -> Any:
    return function(_load(), *args)
