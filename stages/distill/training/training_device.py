"""Set torch's flags of the whole process while a student trains on a device, and restore them afterwards."""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from data_schemas.errors import ProtoRKDError
from stages.components.compute.precision import full_float32

_WORKSPACES = (":4096:8", ":16:8")  # make cuBLAS add up in one order
_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"


@contextmanager
def training_device(device: torch.device, *, deterministic: bool, trained: str) -> Iterator[None]:
    """Set flags for training: float32 without TF32, and on a GPU cuDNN finds the fastest algorithm for each new shape.

    On a CPU this changes nothing.

    Args:
        device: Device on which the student trains.
        deterministic: Take none but deterministic operations on a GPU, where cuDNN then tries nothing.
        trained: Options that name student and objectives, for the message.

    Raises:
        ProtoRKDError: an operation has no deterministic form, or cuBLAS has begun to work without one.
    """
    with full_float32(), _algorithms_put_back():
        if device.type == "cpu" or not deterministic:
            torch.backends.cudnn.benchmark |= device.type == "cuda"
            yield
            return
        if device.type == "cuda":
            _settle_workspace(device)
        _take_deterministic_operations(True)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
        try:
            yield
        except RuntimeError as error:
            refusal = _refusal(error, trained)
            if refusal is None:
                raise
            raise refusal from error


@contextmanager
def measuring_device() -> Iterator[None]:
    """Set flags for measuring during a training: no weight depends on it, so any operation is allowed; shapes vary."""
    with _algorithms_put_back():
        _take_deterministic_operations(False)
        torch.backends.cudnn.benchmark = False
        yield


@contextmanager
def _algorithms_put_back() -> Iterator[None]:
    cudnn = torch.backends.cudnn
    benchmark, deterministic = cudnn.benchmark, cudnn.deterministic
    is_on = torch.are_deterministic_algorithms_enabled()
    warns = torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        yield
    finally:
        _take_deterministic_operations(is_on, warn_only=warns)
        cudnn.benchmark, cudnn.deterministic = benchmark, deterministic


def _take_deterministic_operations(mode: bool, *, warn_only: bool = False) -> None:
    """Set torch's flag only where that changes it: setting it imports torch's compiler, which takes seconds."""
    before = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    if before != (mode, warn_only):
        torch.use_deterministic_algorithms(mode, warn_only=warn_only)


def _refusal(error: RuntimeError, trained: str) -> ProtoRKDError | None:
    operation = re.match(r"(.+?) does not have a deterministic implementation", str(error))
    if operation is None:
        return None
    return ProtoRKDError(
        f"--deterministic must go with operations that have a deterministic form; {operation[1]} has none, and got "
        f"{trained}. Take another (docs/distill.md lists which refuse), or leave --deterministic out."
    )


def _settle_workspace(device: torch.device) -> None:
    """Tell cuBLAS to add up in one order; it reads the variable once a process, at its first use, so it stays set.

    Raises:
        ProtoRKDError: this process has computed on the GPU without it, or the environment has another value.
    """
    told = os.environ.get(_WORKSPACE)
    if told in _WORKSPACES:
        return
    has_computed = torch.cuda.memory_stats(device).get("allocation.all.allocated", 0) > 0
    if told is not None or has_computed:
        after = ", and this process has computed on the GPU already" if has_computed else ""
        raise ProtoRKDError(
            f"{_WORKSPACE} must be {_WORKSPACES[0]} or {_WORKSPACES[1]} for --deterministic; got "
            f"{'nothing' if told is None else told}{after}. Set it in the environment, and start anew."
        )
    os.environ[_WORKSPACE] = _WORKSPACES[0]
