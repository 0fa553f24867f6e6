"""Choose mixed precision where the device has it, and keep float32 free of TF32."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from data_schemas.errors import ProtoRKDError

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_precision(name: str, device: torch.device) -> str:
    """Turn ``--precision`` into fp32, bf16 or fp16: "auto" takes bf16 where the device multiplies it in hardware.

    Raises:
        ProtoRKDError: fp16 is asked for on a device other than a GPU, where it would underflow without being fast.
    """
    check_precision(name, device)
    if name != "auto":
        return name
    return "bf16" if _has_bf16(device) else "fp32"


def check_precision(name: str, device: torch.device) -> None:
    """Refuse a ``--precision`` that the device does not serve.

    Raises:
        ProtoRKDError: as `choose_precision`.
    """
    if name == "fp16" and device.type != "cuda":
        raise ProtoRKDError(f"--precision must be auto, fp32 or bf16 on {device.type}; got fp16. Use --precision auto.")


def autocast(precision: str, device: torch.device) -> Callable[[], contextlib.AbstractContextManager[object]]:
    """Return a function that makes contexts in which matrix products run in the given precision."""
    if precision == "fp32":
        return contextlib.nullcontext
    return lambda: torch.autocast(device.type, dtype=_DTYPES[precision])


@contextlib.contextmanager
def full_float32() -> Iterator[None]:
    """Forbid TF32 in the block, in matrix products and convolutions alike, whatever the caller has allowed.

    By default cuDNN computes float32 convolutions and recurrent layers in TF32. Autocast to bf16 or fp16 is not
    affected. The flags are torch's, hold for the whole process, and are restored on leaving.
    """
    backends: Any = torch.backends
    places = (backends.cuda.matmul, backends.mkldnn.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    before = [place.fp32_precision for place in places]
    _set_float32(places, ["ieee"] * len(places))
    try:
        yield
    finally:
        _set_float32(places, before)


def _set_float32(places: tuple[Any, ...], values: list[str]) -> None:
    """Set torch's former flags, then the newer ones: torch refuses to read either where they disagree."""
    gpu, cpu, *cudnn = values
    torch.set_float32_matmul_precision("medium" if cpu == "bf16" else "high" if gpu == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = cudnn == ["tf32", "tf32"]
    for place, value in zip(places, values, strict=True):
        place.fp32_precision = value


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type != "cpu":
        return False
    # On CPUs without these instructions bf16 is emulated, an order of magnitude slower than fp32.
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, bool)() for probe in probes)
