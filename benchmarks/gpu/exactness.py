"""Measure how far a GPU's numbers are from a CPU's."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.gpu.setup import Setup
from data_schemas.images.student_checkpoint import Preprocessing
from stages.components.compute.precision import autocast, full_float32
from stages.components.images.batch_resize import resize_batch
from stages.components.images.transforms import Normalize
from stages.components.student.student import build_student

_NUM_IMAGES, _NUM_CROPS = 8, 32


def exactness(setup: Setup) -> Iterator[dict[str, Any]]:
    """Measure relative errors of a student's embeddings against float64, and grey levels between crops."""
    yield from _student(setup)
    yield {"crops": {"worst_grey_levels": _worst_grey_levels(setup)}}


def _student(setup: Setup) -> Iterator[dict[str, Any]]:
    size, device = setup.sizes.image_size, setup.device
    torch.manual_seed(0)
    student = build_student(setup.sizes.student, embedding_dim=384, image_size=size).eval()
    images = torch.randint(256, (_NUM_IMAGES, 3, size, size), dtype=torch.uint8)
    preprocessing = Preprocessing(image_size=size)
    with torch.inference_mode():
        exact = student.double()(Normalize(preprocessing, torch.device("cpu"))(images).double())
    student.float().to(device).to(memory_format=torch.channels_last)
    prepared = Normalize(preprocessing, device)(images)

    def error(precision: str) -> dict[str, float]:
        with torch.inference_mode(), autocast(precision, device)():
            embeddings: Tensor = student(prepared).double().cpu()
        return {"relative_error": float((embeddings - exact).norm() / exact.norm())}

    yield {"bf16": error("bf16"), "fp32 of torch, with TF32 in convolutions": error("fp32")}
    with full_float32():
        yield {"fp32": error("fp32")}


def _worst_grey_levels(setup: Setup) -> int:
    size, numbers = setup.sizes.image_size, np.random.default_rng(0)
    sides = numbers.integers(size // 2, 2 * size, (_NUM_CROPS, 2))
    pixels = torch.from_numpy(numbers.integers(0, 256, (int(sides.prod(axis=1).sum()), 3), dtype=np.uint8))
    here, there = (
        resize_batch(pixels.to(device), torch.from_numpy(sides), size=size, interpolation="bicubic").cpu().int()
        for device in (torch.device("cpu"), setup.device)
    )
    return int((here - there).abs().max())
