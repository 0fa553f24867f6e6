"""Describe the machine, and measure what it can do at best."""

import os
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import torch

from benchmarks.gpu.setup import Setup
from benchmarks.gpu.timing import waited

_PACKAGES = (
    "torch", "torchvision", "sentence-transformers", "transformers", "tokenizers", "numpy", "pyarrow", "zarr",
    "numcodecs", "google-crc32c", "simplejpeg", "opencv-python-headless", "scikit-learn", "triton", "faiss-cpu",
    "faiss-gpu", "pytest",
)  # fmt: skip


def environment(setup: Setup) -> Iterator[dict[str, Any]]:
    """Report versions, then speeds of matrix products and copies."""
    yield {
        "python": sys.version.split()[0],
        "cores": os.cpu_count(),
        "versions": {name: _version(name) for name in _PACKAGES},
    }
    device, shared = setup.device, os.statvfs("/dev/shm")  # noqa: S108 - where readers hand batches over
    yield {"shm_free_gb": shared.f_bavail * shared.f_frsize / 1e9}
    if device.type == "cuda":
        properties = torch.cuda.get_device_properties(device)
        yield {"gpu": properties.name, "gpu_gb": properties.total_memory / 1e9, "cuda": torch.version.cuda}
    side = 256 if setup.is_tiny else 8192
    yield {"bf16_tflops": _tflops(side, torch.bfloat16, device), "fp32_tflops": _tflops(side, torch.float32, device)}
    torch.set_float32_matmul_precision("high")
    yield {"tf32_tflops": _tflops(side, torch.float32, device)}
    yield from _copies(1 << (20 if setup.is_tiny else 28), device)


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "absent"


def _tflops(side: int, dtype: torch.dtype, device: torch.device) -> float:
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / waited(lambda: left @ right, times=5) / 1e12


def _copies(size: int, device: torch.device) -> Iterator[dict[str, Any]]:
    """Measure copies in gigabytes per second; within the device, a copied byte is read and written."""
    here, there = torch.ones(size, dtype=torch.uint8), torch.ones(size, dtype=torch.uint8, device=device)
    other = torch.empty_like(there)
    yield {"device_gb_per_s": 2 * size / waited(lambda: other.copy_(there), times=5) / 1e9}
    yield {"pageable_to_device_gb_per_s": size / waited(lambda: there.copy_(here), times=5) / 1e9}
    if device.type == "cuda":
        pinned = here.pin_memory()
        yield {
            "to_pinned_gb_per_s": size / waited(lambda: pinned.copy_(here), times=5) / 1e9,
            "pinned_to_device_gb_per_s": size / waited(lambda: there.copy_(pinned, non_blocking=True), times=5) / 1e9,
        }
