"""faiss, where it can be imported: a wheel may be missing, half removed, or without its CUDA libraries."""

import functools
from typing import TYPE_CHECKING, Any

from pipeline.log import log

if TYPE_CHECKING:
    import torch

MAX_GPU_NEIGHBOURS = 2048  # that faiss finds of a query on a GPU
_GPU_SCRATCH = 256 << 20  # bytes; by itself faiss takes 1.5 GB of a GPU


def import_faiss() -> Any:
    """Import the library.

    Raises:
        ImportError: it is not installed, or not whole; the message says what is missing.
    """
    try:
        import faiss
        from faiss import IndexFlatIP  # noqa: F401 - what is left of a half-removed faiss imports, and is empty
    except RuntimeError as error:  # faiss-gpu without the CUDA libraries that it was built for
        raise ImportError(str(error)) from error
    return faiss


def find_faiss() -> Any | None:
    """Import the library; None where that fails, with the reason in the log once."""
    try:
        return import_faiss()
    except ImportError as error:
        _tell_once(str(error))
        return None


def has_gpu(faiss: Any, device: "torch.device") -> bool:
    """Whether faiss can work on a device; it is not even asked about one that is no GPU."""
    return device.type == "cuda" and (device.index or 0) < faiss.get_num_gpus()


def to_gpu(faiss: Any, index: Any, device: "torch.device") -> Any:
    """Move an index to one GPU, with little memory beside it; other GPUs are left alone."""
    resources = faiss.StandardGpuResources()
    resources.setTempMemory(_GPU_SCRATCH)
    return faiss.index_cpu_to_gpu(resources, device.index or 0, index)


@functools.cache
def _tell_once(reason: str) -> None:
    log.info("faiss is done without, for it cannot be imported: %s", reason)
