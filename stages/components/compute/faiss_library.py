"""Import faiss where that is possible: its wheel may be missing, half removed, or without its CUDA libraries."""

import functools
from typing import TYPE_CHECKING, Any

from pipeline.log import log

if TYPE_CHECKING:
    import torch

MAX_GPU_NEIGHBOURS = 2048  # faiss finds at most so many for a query on a GPU
_GPU_SCRATCH = 256 << 20  # bytes; by default faiss takes 1.5 GB of a GPU


def import_faiss() -> Any:
    """Import the library.

    Raises:
        ImportError: it is not installed, or not whole; the message says what is missing.
    """
    try:
        import faiss
        from faiss import IndexFlatIP  # noqa: F401 - the rest of a half-removed faiss can be imported, but is empty
    except RuntimeError as error:  # faiss-gpu without the CUDA libraries that it was built for
        raise ImportError(str(error)) from error
    return faiss


def find_faiss() -> Any | None:
    """Import the library, or return None where that fails; the reason is logged once."""
    try:
        return import_faiss()
    except ImportError as error:
        _tell_once(str(error))
        return None


def has_gpu(faiss: Any, device: "torch.device") -> bool:
    """Return whether faiss can work on a device; it is asked only about GPUs."""
    return device.type == "cuda" and (device.index or 0) < faiss.get_num_gpus()


def to_gpu(faiss: Any, index: Any, device: "torch.device") -> Any:
    """Move an index to one GPU, with little scratch memory; other GPUs are left alone."""
    resources = faiss.StandardGpuResources()
    resources.setTempMemory(_GPU_SCRATCH)
    return faiss.index_cpu_to_gpu(resources, device.index or 0, index)


@functools.cache
def _tell_once(reason: str) -> None:
    log.info("faiss is done without, for it cannot be imported: %s", reason)
