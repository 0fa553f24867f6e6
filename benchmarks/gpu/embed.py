"""Measure the images per second of a trained student: the whole stage, and the forward alone."""

import os
from collections.abc import Iterator
from typing import Any

import torch

from benchmarks.gpu.setup import Setup
from benchmarks.gpu.timing import pipelined
from benchmarks.gpu.training import train
from pipeline.runner import run_stage
from stages.components.compute.precision import autocast, choose_precision
from stages.components.loading.num_workers import num_workers
from stages.components.student.student import build_student
from stages.embed.options import EmbedInputs, EmbedParams, EmbedRuntime
from stages.embed.stage import STAGE


def embed(setup: Setup) -> Iterator[dict[str, Any]]:
    """Embed both packs, with as many readers as by default and with more."""
    yield {"forward": {"images_per_s": _forward(setup)}}
    student = str(
        train(setup, batch_size=setup.sizes.batch_size, episode_size=2 * setup.sizes.batch_size).artifact.path
    )
    for pack in ("raw", "jpeg"):
        for workers in sorted({num_workers(-1), max(1, (os.cpu_count() or 1) - 1)}):
            outcome = run_stage(
                STAGE,
                params=EmbedParams(),
                inputs=EmbedInputs(student=student, packed=setup.figures("packs")[pack]["path"]),
                runtime=EmbedRuntime(device=setup.device.type, workers=workers),
                context=setup.context(),
            )
            rate = setup.sizes.num_images / outcome.seconds
            yield {f"{pack}, {workers} workers": {"images_per_s": rate, "seconds": outcome.seconds}}


def _forward(setup: Setup) -> float:
    device, size, num = setup.device, setup.sizes.image_size, EmbedRuntime().batch_size
    student = build_student(setup.sizes.student, embedding_dim=384, image_size=size)
    student.to(device).to(memory_format=torch.channels_last).eval()
    images = torch.randn(num, 3, size, size, device=device).contiguous(memory_format=torch.channels_last)
    in_precision = autocast(choose_precision("auto", device), device)

    def forward() -> None:
        with torch.inference_mode(), in_precision():
            student(images)

    return num / pipelined(forward, times=setup.sizes.times)
