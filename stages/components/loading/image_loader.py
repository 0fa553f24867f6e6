"""Processes that read images: how they are started, what they are handed, and what is said where one dies."""

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

from data_schemas.errors import ProtoRKDError
from stages.components.loading.batch import Batch, collate
from stages.components.loading.num_workers import fit_readers
from stages.components.loading.worker_trace import WorkerTrace

# What a process that reads needs, brought in once by the process that all of them are forked from.
_PRELOADED = [
    "stages.components.loading.forkserver_preload",
    "torch",
    "torchvision.transforms.v2",
    "numpy",
    "PIL.Image",
    "cv2",
    "stages.components.loading.image_loader",
]


class Images(Protocol):
    """What batches are read from: a dataset that tells what it is at.

    Args:
        line: its last element is the number of the image that was opened last.
    """

    line: NDArray[np.int64]

    def path_of(self, number: int) -> str:
        """An image's path, for messages."""


class ReaderDiedError(ProtoRKDError):
    """A process that reads images has ended before its work."""


class ImageLoader:
    """Reads batches of images, in order and ahead of their use, each time that it is iterated over.

    The processes are forked from a small server that has one thread and has seen no GPU, and not from this process,
    whose threads may hold locks at that moment. The first call of a process starts the server; `start_server` does that
    earlier, while there is other work.

    Args:
        images: by number, or whatever the batches are made of.
        workers: processes that read, or fewer where batches are large; 0 reads in this one.
        pin_memory: put batches where a GPU fetches them from by itself.
        batches: what each batch is made of.
        batch_bytes: about how much one takes.
        collate_fn: from what the images give to a batch.
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
        self._images, self._at_hand = images, WorkerTrace(workers)
        dataset: Dataset[Any] = images  # type: ignore[assignment]  # a Dataset has no protocol
        self._batches: DataLoader[Any] = DataLoader(
            dataset,
            batch_sampler=batches,
            num_workers=workers,
            collate_fn=collate_fn,
            pin_memory=pin_memory,
            prefetch_factor=ahead if workers else None,
            multiprocessing_context="forkserver" if workers else None,
            worker_init_fn=partial(_settle_down, self._at_hand, dict(os.environ)) if workers else None,
            generator=torch.Generator(),  # its own, or to start would move the global one, from which dropout draws
        )

    def __iter__(self) -> Iterator[Batch]:
        """Read.

        Raises:
            ProtoRKDError: a process met one.
            ReaderDiedError: a process was killed, most often for want of memory, or by a decoder.
        """
        if not self._batches.num_workers:
            yield from self._batches
            return
        with self._errors():
            yield from self._batches

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Let errors of the processes be read: without a traceback, and with what to do."""
        try:
            yield
        except ProtoRKDError as error:
            _, is_wrapped, message = str(error).partition("DataLoader worker process")
            if not is_wrapped:
                raise
            _let_go(error)
            raise ProtoRKDError(message.rpartition("ProtoRKDError: ")[2].strip()) from error
        except (RuntimeError, EOFError, ConnectionError) as error:  # the latter where one dies while it hands over
            is_of_an_image = str(error).startswith("Caught ")  # in a process that lives, while it read
            if is_of_an_image or (isinstance(error, RuntimeError) and "DataLoader worker" not in str(error)):
                raise
            what, last_opened = str(error) or "one has ended in the middle of a batch", self._last_opened()
            _let_go(error)  # with which those that live end, too
            raise ReaderDiedError(
                f"The processes that read images must stay alive; {what}. {last_opened}Run the same command "
                "again, with fewer --workers if memory or /dev/shm ran out."
            ) from error

    def _last_opened(self) -> str:
        paths = [self._images.path_of(number) for number in self._at_hand.of_the_dead()]
        if not paths:
            return ""
        return f"Last opened there: {', '.join(paths)}; where that comes again, the image is to blame. "


def _let_go(error: BaseException) -> None:
    """Let an error keep no iterator over batches, which waits long for its processes where the collector finds it."""
    traceback.clear_frames(error.__traceback__)


def start_server() -> None:
    """Start the process that readers are forked from, unless it runs; it gets ready while this one goes on."""
    multiprocessing.set_forkserver_preload(_PRELOADED)
    multiprocessing.forkserver.ensure_running()


def batches_of(numbers: Sequence[int], size: int) -> list[list[int]]:
    """Cut numbers into batches, in order; the last may be smaller."""
    return [list(numbers[start : start + size]) for start in range(0, len(numbers), size)]


def _settle_down(at_hand: WorkerTrace, environment: dict[str, str], place: int) -> None:
    """Let a process keep to one core, for the others have theirs, and tell what it is at.

    The server that it was forked from may be older than what the environment says now, such as credentials.
    """
    os.environ.update(environment)
    torch.set_num_threads(1)
    info = get_worker_info()
    assert info is not None
    info.dataset.line = at_hand.line(place)  # type: ignore[attr-defined]
