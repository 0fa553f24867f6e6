"""Which device the work runs on."""

import os

import torch

from data_schemas.errors import ProtoRKDError
from pipeline.peers import num_processes

_CACHED_NUMBERS = 1 << 18  # 1 MB of float32


def choose_device(name: str) -> torch.device:
    """Turn ``--device`` into a device: "auto" takes a GPU where there is one.

    Of several GPUs a process that torchrun started takes the one of its number.

    Raises:
        ProtoRKDError: torch does not know the device, or it is not there.
    """
    if name.startswith("cuda:") and num_processes() > 1:
        raise ProtoRKDError(f"--device must be auto, cpu or cuda for several processes; got {name}, which is one GPU.")
    if name == "auto" and not torch.cuda.is_available():
        return torch.device("mps") if torch.backends.mps.is_available() else torch.device("cpu")
    try:
        device = _own_gpu() if name in ("auto", "cuda") else torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        rank = os.environ.get("LOCAL_RANK")
        is_own = rank is not None and name in ("auto", "cuda")
        process = f" in process {rank} of this machine. Start no more processes than it has GPUs" if is_own else ""
        raise ProtoRKDError(
            f"--device must be a device that torch can use here (auto, cpu, cuda, ...); got {name}{process}."
        ) from error
    return device


def choose_devices(names: str) -> list[torch.device]:
    """Turn ``--device`` with several names, with commas between them, into devices; one may be named more than once.

    Raises:
        ProtoRKDError: as `choose_device`.
    """
    return [choose_device(name.strip()) for name in names.split(",")]


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor of the CPU to a device, without waiting for it: a GPU fetches from pinned memory by itself."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def rows_at_a_time(batch: torch.Tensor) -> int:
    """How many rows of a batch several operations should take one after the other: what a CPU's cache holds, else all.

    Shapes:
        batch: (batch, ...).
        returns: 1 or more.
    """
    if batch.device.type != "cpu" or not len(batch):
        return max(1, len(batch))
    return max(1, _CACHED_NUMBERS // batch[0].numel())


def _own_gpu() -> torch.device:
    local_rank = os.environ.get("LOCAL_RANK")
    return torch.device("cuda" if local_rank is None else f"cuda:{local_rank}")
