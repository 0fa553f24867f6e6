"""Read batches of images in other processes, and explain the error when one of them dies."""

import multiprocessing
import multiprocessing.forkserver
import os
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader, Dataset, get_worker_info

from data_schemas.errors import ProtoRKDError, StopRequestedError
from pipeline.signals import stop_is_asked
from stages.components.compute.parent_process import end_with_parent
from stages.components.compute.shared_memory import move_to_shared_memory, shared_memory_errors
from stages.components.loading.batch import Batch, collate
from stages.components.loading.num_workers import fit_readers
from stages.components.loading.worker_trace import NO_IMAGE, WorkerTrace

# Modules that readers need, imported once by the server that they are forked from.
_PRELOADED = [
    "stages.components.loading.forkserver_preload",
    "torch",
    "torchvision.transforms.v2",
    "numpy",
    "PIL.Image",
    "cv2",
    "stages.components.loading.image_loader",
]


LOOK_S = 5.0
"""Seconds after which a wait for a batch looks whether its readers live and read, and whether a stop was asked for."""

_MOST_IDLE_LOOKS = 120  # without a batch or an image between them; not seconds, which pass while a machine sleeps
_LOOKS_BEFORE_STOP = 2  # the batch may be about to come, and its step can be finished


class Images(Protocol):
    """A dataset that batches are read from, and that notes which image it opens.

    Args:
        line: Array whose last element is the number of the image that was opened last.
    """

    line: NDArray[np.int64]

    def path_of(self, number: int) -> str:
        """Return an image's path, for messages."""


class ReaderDiedError(ProtoRKDError):
    """A process that reads images has died."""


class NoBatchError(StopRequestedError):
    """A stop was asked for while no batch came."""


class _HandOver:
    """Collates a batch in a reader, and moves it to shared memory there.

    A queue of torch would move it in a thread that loses the batch where the memory is full: the trainer would wait for
    it for ever. Moved here it is an error of the reader, which the trainer gets in the batch's place.
    """

    def __init__(self, collate_fn: Callable[[Any], Batch]) -> None:
        self._collate = collate_fn

    def __call__(self, samples: Any) -> Batch:
        batch = self._collate(samples)
        for tensor in (batch.images, batch.rows, batch.seeds, batch.sizes, batch.is_taken):
            if tensor.numel():
                move_to_shared_memory(tensor)
        return batch


class ImageLoader:
    """An iterable that reads batches of images, in order and ahead of their use, on each iteration.

    Readers are forked from a small server that has one thread and has not initialised CUDA, and not from this process,
    whose threads may hold locks. The first loader of a process starts the server; `start_server` starts it earlier,
    beside other work.

    Args:
        images: Dataset to read from.
        workers: Number of readers, fewer if batches are large; 0 reads in this process.
        pin_memory: Whether to pin batches, so that a GPU copies them in the background.
        batches: Keys of the images in each batch.
        batch_bytes: Approximate size of a batch.
        collate_fn: Makes a batch from the samples of the dataset.
    """

    def __init__(
        self,
        images: Images,
        *,
        workers: int,
        pin_memory: bool,
        batches: Iterable[list[Any]],
        batch_bytes: float,
        collate_fn: Callable[[Any], Batch] = collate,
    ) -> None:
        workers, ahead = fit_readers(workers, batch_bytes=batch_bytes)
        if workers:
            start_server()
        self._images, self._trace = images, WorkerTrace(workers)
        dataset: Dataset[Any] = images  # type: ignore[assignment]  # a Dataset has no protocol
        self._batches: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=_HandOver(collate_fn) if workers else collate_fn,
            pin_memory=pin_memory,
            timeout=LOOK_S if workers else 0,
            prefetch_factor=ahead if workers else None,
            multiprocessing_context="forkserver" if workers else None,
            worker_init_fn=partial(_init_reader, self._trace, dict(os.environ)) if workers else None,
            generator=torch.Generator(),  # its own: drawing from the global one would change what dropout draws
        )

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches.

        Raises:
            ProtoRKDError: a reader raised it, shared memory is full, or the readers open no image for minutes.
            NoBatchError: a stop was asked for while no batch came.
            ReaderDiedError: a reader was killed, most often because memory ran out, or by a decoder.
        """
        if not self._batches.num_workers:
            yield from self._batches
            return
        with self._errors(), shared_memory_errors():
            yield from self._watched()

    def _watched(self) -> Iterator[Batch]:
        """Yield the batches of the readers, and look after them while none comes."""
        batches = iter(self._batches)
        while True:
            try:
                yield self._wait(batches)
            except StopIteration:
                return

    def _wait(self, batches: Iterator[Batch]) -> Batch:
        last_opened, num_looks, num_idle = None, 0, 0
        while True:
            try:
                return next(batches)
            except RuntimeError as error:
                if not str(error).startswith("DataLoader timed out"):  # after a look at whether all readers live
                    raise
            now_opened = self._trace.last_opened()
            num_looks, num_idle = num_looks + 1, num_idle + 1 if now_opened == last_opened else 0
            last_opened = now_opened
            if num_looks >= _LOOKS_BEFORE_STOP and stop_is_asked():
                raise NoBatchError(
                    f"Asked to stop, and did, while no batch of images came for {num_looks * LOOK_S:.0f} s. Run the "
                    "same command again: it goes on from what was saved."
                )
            if num_idle >= _MOST_IDLE_LOOKS:
                paths = [self._images.path_of(number) for number in now_opened if number != NO_IMAGE]
                raise ProtoRKDError(
                    f"The processes that read images must open one within {_MOST_IDLE_LOOKS * LOOK_S:.0f} s; they "
                    f"opened none, and hand over no batch. Last opened: {', '.join(paths) or 'none'}. Look whether "
                    "these can be read, at the limit of open files (ulimit -n) and at messages above, and run the "
                    "same command again."
                )

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn errors of readers into ones without a traceback that say what to do."""
        try:
            yield
        except ProtoRKDError as error:
            _, is_wrapped, message = str(error).partition("DataLoader worker process")
            _clear_frames(error)
            if not is_wrapped:
                raise
            raise ProtoRKDError(message.rpartition("ProtoRKDError: ")[2].strip()) from error
        except (RuntimeError, EOFError, ConnectionError) as error:  # the latter if one dies while it hands over a batch
            is_of_an_image = str(error).startswith("Caught ")  # in a reader that lives, while it read
            if is_of_an_image or (isinstance(error, RuntimeError) and "DataLoader worker" not in str(error)):
                raise
            what, last_opened = str(error) or "one has ended in the middle of a batch", self._last_opened()
            _clear_frames(error)  # which ends the other readers, too
            raise ReaderDiedError(
                f"The processes that read images must stay alive; {what}. {last_opened}Run the same command "
                "again, with fewer --workers if memory or /dev/shm ran out."
            ) from error

    def _last_opened(self) -> str:
        paths = [self._images.path_of(number) for number in self._trace.of_the_dead()]
        if not paths:
            return ""
        return f"Last opened there: {', '.join(paths)}; where that comes again, the image is to blame. "


def _clear_frames(error: BaseException) -> None:
    """Free the batch iterator that an error's frames hold, which would wait long for its readers if collected later."""
    link: BaseException | None = error
    while link is not None:
        traceback.clear_frames(link.__traceback__)
        link = link.__cause__ or link.__context__


def start_server() -> None:
    """Start the server that readers are forked from, unless it runs; it gets ready in the background."""
    multiprocessing.set_forkserver_preload(_PRELOADED)
    multiprocessing.forkserver.ensure_running()


def batches_of(numbers: Sequence[int], size: int) -> list[list[int]]:
    """Cut numbers into batches, in order; the last one may be smaller."""
    return [list(numbers[start : start + size]) for start in range(0, len(numbers), size)]


def _init_reader(trace: WorkerTrace, environment: dict[str, str], place: int) -> None:
    """Set up a reader: its end with the command, one thread, the line of its trace, and the command's environment.

    The server that it was forked from may have an older environment, for example without credentials.
    """
    end_with_parent()
    os.environ.update(environment)
    torch.set_num_threads(1)
    info = get_worker_info()
    assert info is not None
    info.dataset.line = trace.line(place)  # type: ignore[attr-defined]
