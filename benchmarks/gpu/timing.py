"""Measure time and memory of calls on a device that the host runs ahead of."""

import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch


def wait() -> None:
    """Wait until the GPU has finished its work."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def waited(function: Callable[[], object], *, times: int, warm: int = 3) -> float:
    """Measure the median seconds of a call that is waited for."""
    for _ in range(warm):
        function()
    taken = []
    for _ in range(times):
        wait()
        start = time.perf_counter()
        function()
        wait()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def pipelined(function: Callable[[], object], *, times: int, warm: int = 3) -> float:
    """Measure the mean seconds of a call where nobody waits between calls, as in training."""
    for _ in range(warm):
        function()
    wait()
    start = time.perf_counter()
    for _ in range(times):
        function()
    wait()
    return (time.perf_counter() - start) / times


def peak_memory() -> dict[str, float]:
    """Read the most gigabytes that torch held on a GPU since the last call of this, which also frees unused memory."""
    if not torch.cuda.memory_stats():  # until torch has worked there, there are none to reset
        return {}
    peak = torch.cuda.max_memory_allocated() / 1e9
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return {"peak_gb": peak}


def attempted(measure: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Return a configuration's figures or, where it fails, the reason: the others of its step go on."""
    try:
        return measure(*args, **options)
    except Exception as error:  # out of memory above all
        return {"failed": f"{type(error).__name__}: {error}"[:300]}
    finally:
        peak_memory()
