"""Try several processes: two that share the GPU by gloo, which NCCL refuses; and NCCL with a process alone."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel

from benchmarks.gpu.commands import print_output
from benchmarks.gpu.setup import ROOT, Setup
from stages.components.compute.distributed import Ranks, join_ranks
from stages.components.student.gradient_checkpointing import enable_gradient_checkpointing
from stages.components.student.student import build_student

_TRAININGS = {
    "plain": (),
    "synced, checkpointed, accumulated": ("--sync-batchnorm", "--checkpoint-gradients", "--accumulate-steps", "2"),
}
_STEPS = 3


def two_on_one_gpu(setup: Setup) -> Iterator[dict[str, Any]]:
    """Train by two processes on one device, from the command line."""
    sizes = setup.sizes
    words = [
        *("distill", "--store", setup.store, "--embeddings", setup.figures("cache")["path"]),
        *("--packed", setup.figures("packs")["raw"]["path"], "--device", setup.device.type, "--force"),
        *("--student", sizes.small_student, "--image-size", sizes.small_image_size, "--workers", sizes.small_workers),
        *("--batch-size", sizes.small_batch_size, "--episode-size", 8 * sizes.small_batch_size, "--epochs", 1),
    ]
    launcher = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "-m",
        "benchmarks.gpu.one_gpu_rank",
    ]
    for name, options in _TRAININGS.items():
        start = time.monotonic()
        done = subprocess.run(
            [sys.executable, *launcher, *map(str, words), *options],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        yield {
            name: {"ends_well": done.returncode == 0, "seconds": time.monotonic() - start, "says": print_output(done)}
        }


def alone_by_nccl(setup: Setup) -> Iterator[dict[str, Any]]:
    """Run in one process all that trainings of several ask of their group and of wrapped students."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = listening.getsockname()[1]
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK="0", WORLD_SIZE="1", LOCAL_RANK="0")
    ranks, device = join_ranks(), setup.device
    yield {"backend": str(distributed.get_backend(ranks.group))}
    for name, rows in (("host", torch.arange(4)), ("device", torch.arange(4.0, device=device))):
        gathered = [torch.empty_like(rows)]
        distributed.all_gather(gathered, rows, group=ranks.group)
        yield {f"all_gather, {name}": {"ends_well": torch.equal(gathered[0], rows)}}
    for name, synced, checkpointed in (
        ("plain", False, False),
        ("synced", True, False),
        ("synced, checkpointed", True, True),
    ):
        if device.type == "cuda" or not synced:  # torch's own layer needs a GPU
            yield {f"trains, {name}": {"ends_well": _trains(ranks, device, synced=synced, checkpointed=checkpointed)}}
    ranks.leave()


def _trains(ranks: Ranks, device: torch.device, *, synced: bool, checkpointed: bool) -> bool:
    student: Any = build_student("resnet18", embedding_dim=64, image_size=64)
    student.to(device).to(memory_format=torch.channels_last)
    if synced:
        convert: Callable[..., nn.Module] = nn.SyncBatchNorm.convert_sync_batchnorm
        student = convert(student, ranks.group)
    if checkpointed:
        enable_gradient_checkpointing(student.backbone)
    wrapped = DistributedDataParallel(
        student,
        device_ids=[device] if device.type == "cuda" else None,
        process_group=ranks.group,
        gradient_as_bucket_view=True,
    )
    optimizer = torch.optim.AdamW(student.parameters(), fused=True)
    images = torch.randn(8, 3, 64, 64, device=device).contiguous(memory_format=torch.channels_last)
    for _ in range(_STEPS):
        with torch.autocast(device.type, torch.bfloat16):
            embeddings = wrapped(images)
        loss = embeddings.float().square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return bool(loss.isfinite())
