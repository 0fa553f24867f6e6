"""Choose how many processes read images, and how many batches ahead."""

import functools
import math
import os
import shutil

from pipeline.log import log
from pipeline.sizes import human_size

_MOST_AHEAD = 4  # batches that each process reads ahead
_MOST_BYTES = 2e9  # of waiting batches, for each process that trains or embeds
_SHARED_MEMORY, _SHARE = "/dev/shm", 0.5  # noqa: S108 - torch's shared memory; share of its free space
_IN_USE = 2  # batches that are not waiting: the one that is used, and the one that comes after it


def num_workers(wanted: int) -> int:
    """Turn ``--workers`` into a number of processes.

    -1 divides the cores among the machine's training processes, leaves each one core for itself, and takes at most 8.
    """
    return wanted if wanted >= 0 else min(8, max(1, (os.cpu_count() or 1) // num_local_processes() - 1))


def num_local_processes() -> int:
    """Return how many processes the launcher started on this machine; 1 without a launcher."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def plan_reading(
    batch_bytes: float, *, workers: int, free_bytes: float = math.inf, num_local: int = 1
) -> tuple[int, int]:
    """Return how many processes read, and how many batches ahead each, so that waiting batches fit in memory.

    If one batch for each process is too much, there are fewer processes; if shared memory has no room for one that
    waits beside those in use, there are none.

    Args:
        batch_bytes: Size of a batch.
        workers: Wanted number of processes.
        free_bytes: Free shared memory, for all processes of the machine.
        num_local: Number of processes on the machine that have readers each.

    Example:
        >>> [plan_reading(megabytes * 1e6, workers=8) for megabytes in (1, 150, 300, 3000)]
        [(8, 4), (8, 1), (6, 1), (1, 1)]
        >>> plan_reading(40e6, workers=8, free_bytes=64e6)
        (0, 1)
    """
    size = max(1, batch_bytes)
    share, room = _SHARE * free_bytes / num_local, free_bytes / num_local - _IN_USE * size
    if room < size:
        return 0, 1
    fitting = int(min(_MOST_BYTES, share) // size)
    if fitting >= workers:
        return workers, min(_MOST_AHEAD, fitting // max(1, workers))
    return fitting or int(size <= share), 1


def fit_readers(workers: int, *, batch_bytes: float) -> tuple[int, int]:
    """Plan for this machine as `plan_reading` does, and log if fewer processes than wanted can read."""
    total_bytes, free_bytes = _shared_memory()
    num_local = num_local_processes()
    fitting, ahead = plan_reading(batch_bytes, workers=workers, free_bytes=free_bytes, num_local=num_local)
    if fitting < workers:
        bound = f"{human_size(_MOST_BYTES)} of them may wait for their use"
        if _SHARE * free_bytes / num_local < _MOST_BYTES:
            bound = f"they wait in {_SHARED_MEMORY}, of {human_size(total_bytes)}: enlarge it, or free some of it"
        size = human_size(batch_bytes)
        _say_once(f"{fitting} processes read images, not {workers}: a batch takes {size}, and {bound}")
    return fitting, ahead


def _shared_memory() -> tuple[float, float]:
    """Return the total and the free bytes of shared memory; infinite if the system does not tell."""
    try:
        memory = shutil.disk_usage(_SHARED_MEMORY)
    except OSError:
        return math.inf, math.inf
    return memory.total, memory.free


@functools.cache  # a training makes a loader for every validation
def _say_once(line: str) -> None:
    log.info(line)
