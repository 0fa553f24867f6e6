"""Mixed precision where the device has it."""

import contextlib
from collections.abc import Callable

import torch

from data_schemas.errors import ProtoRKDError

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_precision(name: str, device: torch.device) -> str:
    """Turn ``--precision`` into fp32, bf16 or fp16: "auto" takes bf16 where the device multiplies it in hardware.

    Raises:
        ProtoRKDError: fp16 is asked for on a device other than a GPU, where it would underflow without being fast.
    """
    if name == "fp16" and device.type != "cuda":
        raise ProtoRKDError(f"--precision must be auto, fp32 or bf16 on {device.type}; got fp16. Use --precision auto.")
    if name != "auto":
        return name
    return "bf16" if _has_bf16(device) else "fp32"


def autocast(precision: str, device: torch.device) -> Callable[[], contextlib.AbstractContextManager[object]]:
    """A maker of contexts that run matrix products in the given precision."""
    if precision == "fp32":
        return contextlib.nullcontext
    return lambda: torch.autocast(device.type, dtype=_DTYPES[precision])


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device)[0] >= 8
    if device.type != "cpu":
        return False
    # On CPUs without these instructions bf16 is emulated, an order of magnitude slower than fp32.
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(getattr(torch.cpu, probe, bool)() for probe in probes)
