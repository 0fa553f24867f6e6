"""Time images on their way to the student: reading them, and the device's work before the forward."""

import os
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu.setup import Setup
from benchmarks.gpu.timing import peak_memory, pipelined
from data_schemas.artifact_record import ArtifactRecord
from data_schemas.images.student_checkpoint import Preprocessing
from pipeline.store.store import Artifact
from stages.components.compute.precision import autocast
from stages.components.images.augmentation import AUGMENTATIONS, Augment
from stages.components.images.batch_resize import resize_batch
from stages.components.images.packed_image_set import Pack, take_all
from stages.components.images.transforms import Normalize, TrainCrop
from stages.components.loading.num_workers import num_workers
from stages.distill.data.batch_order import BatchRequests
from stages.distill.data.device_pipeline import prepares_batches
from stages.distill.data.example_images import ExampleImages, load_batches

_BATCH_SIZE = 256
_EPOCHS = {"raw": 3, "jpeg": 2}


def loader(setup: Setup) -> Iterator[dict[str, Any]]:
    """Count the images a second that readers give from each pack: as many readers as by default, and more."""
    for pack in _EPOCHS:
        for workers in sorted({num_workers(-1), max(1, (os.cpu_count() or 1) - 1)}):
            yield {f"{pack}, {workers} workers": _read(setup, pack, workers)}


def _read(setup: Setup, pack: str, workers: int) -> dict[str, float]:
    path = Path(setup.figures("packs")[pack]["path"])
    images = take_all(Pack.open(Artifact(path, ArtifactRecord.read(path)))).value
    on_gpu = prepares_batches(setup.device)
    numbers = np.arange(len(images.paths))
    dataset = ExampleImages(
        images,
        numbers,
        TrainCrop(image_size=setup.sizes.image_size, min_scale=AUGMENTATIONS["crop"].crop_min_scale),
        None,
        seed=0,
        resized=not (on_gpu and pack == "raw"),
    )
    batch_size = min(_BATCH_SIZE, setup.sizes.batch_size)
    requests = BatchRequests(numbers, batch_size=batch_size, epochs=_EPOCHS[pack], seed=0)
    batches = iter(load_batches(dataset, requests, workers=workers, pin_memory=on_gpu))
    next(batches)  # until then, processes start
    start = time.monotonic()
    num = sum(len(batch.rows) for batch in batches)
    return {"images_per_s": num / (time.monotonic() - start)}


def preparation(setup: Setup) -> Iterator[dict[str, Any]]:
    """Time resizing, light augmentation and normalisation of a batch."""
    size, num, device = setup.sizes.image_size, setup.sizes.batch_size, setup.device
    images = torch.randint(256, (num, 3, size, size), dtype=torch.uint8, device=device)
    images = images.contiguous(memory_format=torch.channels_last)
    sides = np.random.default_rng(0).integers(int(1.05 * size), int(1.5 * size), (num, 2))
    pixels = torch.randint(256, (int(sides.prod(axis=1).sum()), 3), dtype=torch.uint8, device=device)
    augment, seeds = Augment(AUGMENTATIONS["light"]), torch.arange(num)
    normalize = Normalize(Preprocessing(image_size=size), device)
    calls: dict[str, Callable[[], object]] = {
        "resize": partial(resize_batch, pixels, torch.from_numpy(sides), size=size, interpolation="bicubic"),
        "light augmentation": lambda: augment(images, seeds),
        "normalise": lambda: normalize(images),
    }
    with autocast("bf16", device)():
        for name, call in calls.items():
            yield {name: {"ms": 1000 * pipelined(call, times=setup.sizes.times), **peak_memory()}}
