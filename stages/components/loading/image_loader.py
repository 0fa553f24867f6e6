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

from data_schemas.errors import ProtoRKDError
from stages.components.compute.parent_process import end_with_parent
from stages.components.loading.batch import Batch, collate
from stages.components.loading.num_workers import fit_readers
from stages.components.loading.worker_trace import WorkerTrace

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
            generator=torch.Generator(),  # its own: drawing from the global one would change what dropout draws
        )

    def __iter__(self) -> Iterator[Batch]:
        """Yield the batches.

        Raises:
            ProtoRKDError: a reader raised it.
            ReaderDiedError: a reader was killed, most often because memory ran out, or by a decoder.
        """
        if not self._batches.num_workers:
            yield from self._batches
            return
        with self._errors():
            yield from self._batches

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn errors of readers into ones without a traceback that say what to do."""
        try:
            yield
        except ProtoRKDError as error:
            _, is_wrapped, message = str(error).partition("DataLoader worker process")
            if not is_wrapped:
                raise
            _let_go(error)
            raise ProtoRKDError(message.rpartition("ProtoRKDError: ")[2].strip()) from error
        except (RuntimeError, EOFError, ConnectionError) as error:  # the latter if one dies while it hands over a batch
            is_of_an_image = str(error).startswith("Caught ")  # in a reader that lives, while it read
            if is_of_an_image or (isinstance(error, RuntimeError) and "DataLoader worker" not in str(error)):
                raise
            what, last_opened = str(error) or "one has ended in the middle of a batch", self._last_opened()
            _let_go(error)  # which ends the other readers, too
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
    """Free the batch iterator that an error's frames hold, which would wait long for its readers if collected later."""
    traceback.clear_frames(error.__traceback__)


def start_server() -> None:
    """Start the server that readers are forked from, unless it runs; it gets ready in the background."""
    multiprocessing.set_forkserver_preload(_PRELOADED)
    multiprocessing.forkserver.ensure_running()


def batches_of(numbers: Sequence[int], size: int) -> list[list[int]]:
    """Cut numbers into batches, in order; the last one may be smaller."""
    return [list(numbers[start : start + size]) for start in range(0, len(numbers), size)]


def _settle_down(at_hand: WorkerTrace, environment: dict[str, str], place: int) -> None:
    """Set up a reader: its end with the command, one thread, the line of its trace, and the command's environment.

    The server that it was forked from may have an older environment, for example without credentials.
    """
    end_with_parent()
    os.environ.update(environment)
    torch.set_num_threads(1)
    info = get_worker_info()
    assert info is not None
    info.dataset.line = at_hand.line(place)  # type: ignore[attr-defined]
