"""Choose the device that the work runs on, and copy tensors to it."""

import os

import torch

from data_schemas.errors import ProtoRKDError
from pipeline.peers import num_processes
from stages.components.compute.gpu_driver import explain_missing_gpu, hides_gpus, read_driver

_CACHED_NUMBERS = 1 << 18  # 1 MB of float32


def choose_device(name: str) -> torch.device:
    """Turn ``--device`` into a device, which becomes torch's own: "auto" takes a GPU where there is one.

    Of several GPUs, a process that torchrun started takes the one with its local rank; any other process takes torch's
    current one, which is the first until another has been chosen.

    Raises:
        ProtoRKDError: torch does not know the device, it is not there, or "auto" would take the CPU of a machine that
            has an NVIDIA driver, unless CUDA_VISIBLE_DEVICES hides its GPUs.
    """
    return _current(_find_device(name))


def choose_devices(names: str) -> list[torch.device]:
    """Turn ``--device`` with comma-separated names into devices; the first becomes torch's own.

    Raises:
        ProtoRKDError: as `choose_device`.
    """
    first, *others = [_find_device(name.strip()) for name in names.split(",")]
    return [_current(first), *others]


def find_devices(names: str, *, most: int = 0) -> list[torch.device]:
    """Find the devices that ``--device`` names, without making one torch's own and, where it can be helped, a context.

    Args:
        names: Value of ``--device``; several stand between commas.
        most: Most devices that the stage takes; 0 is any number.

    Raises:
        ProtoRKDError: as `choose_device`, or there are too many.
    """
    named = [name.strip() for name in names.split(",")]
    if 0 < most < len(named):
        raise ProtoRKDError(f"--device must name {most} device; got {names}. Name one of them.")
    is_there = torch.cuda.is_available()
    return [torch.device("cuda") if is_there and name in ("auto", "cuda") else _find_device(name) for name in named]


def describe_work(*devices: torch.device, precision: str) -> str:
    """Say where and in what a stage computes, for the log: ``cuda:0 (NVIDIA H100 80GB HBM3), bf16``."""
    names = [f"{device} ({gpu_name(device)})" if device.type == "cuda" else str(device) for device in devices]
    return ", ".join([*names, precision])


def gpu_name(device: torch.device) -> str:
    """Return a GPU's name, such as ``NVIDIA H100 80GB HBM3``, or another device's kind, such as ``cpu``."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor to a device; a copy from the CPU to a GPU goes through pinned memory, and is not waited for."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def rows_at_a_time(batch: torch.Tensor) -> int:
    """Return how many rows of a batch a chain of operations should take at a time: what a CPU's cache holds, else all.

    Shapes:
        batch: (batch, ...).
        returns: 1 or more.
    """
    if batch.device.type != "cpu" or not len(batch):
        return max(1, len(batch))
    return max(1, _CACHED_NUMBERS // batch[0].numel())


def _find_device(name: str) -> torch.device:
    if name.startswith("cuda:") and num_processes() > 1:
        raise ProtoRKDError(f"--device must be auto, cpu or cuda for several processes; got {name}, which is one GPU.")
    if name == "auto" and not torch.cuda.is_available():
        return _without_gpu()
    try:
        device = _own_gpu() if name in ("auto", "cuda") else torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        rank = os.environ.get("LOCAL_RANK")
        is_own = rank is not None and name in ("auto", "cuda")
        process = f" in process {rank} of this machine. Start no more processes than it has GPUs" if is_own else ""
        why = f" {_why_no_gpu()}" if name.startswith("cuda") and not torch.cuda.is_available() else ""
        raise ProtoRKDError(
            f"--device must be a device that torch can use here (auto, cpu, cuda, ...); got {name}{process}.{why}"
        ) from error
    return device


def _current(device: torch.device) -> torch.device:
    """Make a GPU torch's current one, so that no context is created on another."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


def _without_gpu() -> torch.device:
    """Return what "auto" takes without CUDA; with an NVIDIA driver the CPU is refused, for training would take days."""
    if torch.backends.mps.is_available():
        return torch.device("mps")
    if read_driver() is None or hides_gpus(os.environ.get("CUDA_VISIBLE_DEVICES")):
        return torch.device("cpu")
    raise ProtoRKDError(
        f"--device auto must find the GPU of a machine that has an NVIDIA driver; got none. {_why_no_gpu()} "
        "Or pass --device cpu to do without."
    )


def _why_no_gpu() -> str:
    return explain_missing_gpu(
        driver=read_driver(),
        torch_version=torch.__version__,
        cuda=torch.version.cuda,
        visible=os.environ.get("CUDA_VISIBLE_DEVICES"),
    )


def _own_gpu() -> torch.device:
    local_rank = os.environ.get("LOCAL_RANK")
    return torch.device("cuda", torch.cuda.current_device() if local_rank is None else int(local_rank))
