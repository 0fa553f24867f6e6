"""Decode untrusted images in processes: one that dies of an image ends neither the run nor the others."""

import asyncio
import multiprocessing
import signal
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool

from stages.components.compute.parent_process import end_with_parent
from stages.gather_cc.image_writer import ImageWriter, Rejected, WrittenImage

DECODE_S = 60
_PRELOADED = ["stages.gather_cc.image_writer", "stages.gather_cc.decoders"]
_writer: ImageWriter  # set in each process of the pool


class Decoders:
    """A pool of processes that decode and write images; used as a context, which waits for current images at its end.

    Args:
        writer: Writer of the images.
        workers: Number of processes; 0 uses a thread of this process.
    """

    def __init__(self, writer: ImageWriter, *, workers: int) -> None:
        self._writer = writer
        self._workers = workers
        self._alone = asyncio.Lock()
        self._pool = self._start(workers)

    def __enter__(self) -> "Decoders":
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    async def write(self, row: int, data: bytes) -> WrittenImage | Rejected:
        """Decode and write an image.

        Raises:
            ProtoRKDError: the disk is full or the folder cannot be written.
        """
        loop = asyncio.get_running_loop()
        if not self._workers:
            return await loop.run_in_executor(self._pool, self._writer, row, data)
        pool = self._pool
        try:
            return await loop.run_in_executor(pool, _write, row, data)
        except BrokenProcessPool:
            if self._pool is pool:
                self._pool = self._start(self._workers)
        # One of the current images killed a process. Each is retried in a process of its own, to find which.
        async with self._alone:
            with self._start(1) as alone:
                try:
                    return await loop.run_in_executor(alone, _write, row, data)
                except BrokenProcessPool:
                    return Rejected("the decoder died of it", f"or took more than {DECODE_S} s")

    def _start(self, workers: int) -> Executor:
        if not workers:
            return ThreadPoolExecutor(1)
        multiprocessing.set_forkserver_preload(_PRELOADED)
        context = multiprocessing.get_context("forkserver")
        return ProcessPoolExecutor(workers, mp_context=context, initializer=_init_process, initargs=(self._writer,))


def _init_process(writer: ImageWriter) -> None:
    """Set up a process: it leaves signals to its parent, and ends with it."""
    global _writer  # noqa: PLW0603 - what a pool's initializer can leave behind
    _writer = writer
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    end_with_parent()


def _write(row: int, data: bytes) -> WrittenImage | Rejected:
    signal.alarm(DECODE_S)  # ends the process, even inside a library call
    try:
        return _writer(row, data)
    finally:
        signal.alarm(0)
