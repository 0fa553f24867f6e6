"""Processes that read pictures: how they are started, and what they are handed."""

import multiprocessing
import multiprocessing.forkserver
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from stages.image_batches import Batch, collate

# What a process that reads needs, brought in once by the process that all of them are forked from.
_PRELOADED = ["torch", "torchvision.transforms.v2", "numpy", "PIL.Image", "cv2", "stages.image_loading"]
_AHEAD = 4  # batches that each process reads ahead


def image_loader(
    pictures: Dataset[Any],
    *,
    workers: int,
    pin_memory: bool,
    batches: Iterable[list[Any]],
    collate_fn: Callable[[Any], Batch] = collate,
) -> "DataLoader[Any]":
    """Read batches of pictures, in order and ahead of their use.

    The processes are forked from a small server that has one thread and has seen no GPU, and not from this process,
    whose threads may hold locks at that moment. The first call of a process starts the server; `start_server` does that
    earlier, while there is other work.

    Args:
        pictures: by number, or whatever the batches are made of.
        workers: processes that read; 0 reads in this one.
        pin_memory: put batches where a GPU fetches them from by itself.
        batches: what each batch is made of.
        collate_fn: from what the pictures give to a batch.
    """
    if workers:
        start_server()
    return DataLoader(
        pictures,
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=collate_fn,
        pin_memory=pin_memory,
        prefetch_factor=_AHEAD if workers else None,
        multiprocessing_context="forkserver" if workers else None,
        worker_init_fn=_settle_down if workers else None,
        generator=torch.Generator(),  # its own, or starting to read would move the global one, from which dropout draws
    )


def start_server() -> None:
    """Start the process that readers are forked from, unless it runs; it gets ready while this one goes on."""
    multiprocessing.set_forkserver_preload(_PRELOADED)
    multiprocessing.forkserver.ensure_running()


def batches_of(numbers: Sequence[int], size: int) -> list[list[int]]:
    """Cut numbers into batches, in order; the last may be smaller."""
    return [list(numbers[start : start + size]) for start in range(0, len(numbers), size)]


def _settle_down(_: int) -> None:
    """Let a process keep to one core: the others have theirs."""
    torch.set_num_threads(1)
