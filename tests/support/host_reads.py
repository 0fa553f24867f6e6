"""Find operations that make the host wait for a GPU: counted on a CPU, refused on a GPU."""

import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from types import CodeType, FrameType
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stages.components.compute.device import send

# Operations that copy a number to the host, or give a tensor whose size depends on another's content.
READS = {
    "_local_scalar_dense", "equal", "is_nonzero", "item", "masked_select", "nonzero", "repeat_interleave", "unique2",
    "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive",
}  # fmt: skip
_MOVES = {"_to_copy", "copy_"}


class Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts these operations.

    Args:
        device: Device that stands for the GPU. On "cpu" everything runs, and reads are counted. On "meta" tensors have
            no content, so that reading it is torch's own error, and copies between host and device are counted as
            well, except `send`'s, which are from pinned memory and do not stop the host.
    """

    def __init__(self, device: str = "cpu") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: Counter[str] = Counter()
        self.places: set[str] = set()  # for messages
        self._device = device

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation."""
        name = function.overloadpacket.__name__
        result = function(*args, **(kwargs or {}))
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_device = [tensor for tensor in tensors if tensor.device.type == self._device]
        by_mask = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        reads = on_device and (name in READS or by_mask)
        if reads or (self._device != "cpu" and self._crosses(name, tensors, result)):
            self.found[name] += 1
            places = (f"{code.co_filename}:{line}" for code, line in _calls())
            self.places.add(f"{name}, {next((place for place in places if '/stages/' in place), 'elsewhere')}")
        return result

    def _crosses(self, name: str, tensors: list[Tensor], result: Any) -> bool:
        """Tell whether an operation takes tensors of both sides; a number in a tensor goes along with its launch."""
        if name == "lift_fresh":  # torch.tensor(..., device=...), which was copied already
            return result.device.type == self._device
        moves = name in _MOVES
        sides = {tensor.device.type for tensor in tensors if moves or tensor.ndim}
        if moves:
            sides.add(result.device.type)
        return len(sides) > 1 and not any(code is send.__code__ for code, _ in _calls())

    def counting(self, function: Any) -> Any:
        """Count in every call of a function."""

        def call(*args: Any, **words: Any) -> Any:
            with self:
                return function(*args, **words)

        return call


def _calls() -> Iterator[tuple[CodeType, int]]:
    """Name the running calls and their lines, from the innermost outwards."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        yield frame.f_code, frame.f_lineno
        frame = frame.f_back


def without_autocast(patch: pytest.MonkeyPatch) -> None:
    """Let "meta" stand for a GPU that computes in float32: torch knows no autocast there."""
    patch.setattr(torch, "autocast", lambda *_, **__: nullcontext())
    patch.setattr(torch, "is_autocast_enabled", lambda _: False)


@contextmanager
def waits_refused() -> Iterator[None]:
    """Make waiting for the device an error of CUDA."""
    _set_sync_debug_mode("error")
    try:
        yield
    finally:
        _set_sync_debug_mode("default")


def _set_sync_debug_mode(mode: str) -> None:
    with warnings.catch_warnings():  # the first call warns of itself
        warnings.filterwarnings("ignore", "Synchronization debug mode is a prototype feature", UserWarning)
        torch.cuda.set_sync_debug_mode(mode)
