"""Counts operations that a device is waited for at."""

from collections import Counter
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

# What copies a number to the host, or gives a tensor whose size depends on the content of another.
READS = {
    "_local_scalar_dense", "equal", "is_nonzero", "item", "masked_select", "nonzero", "repeat_interleave", "unique2",
    "_unique2", "unique_dim", "unique_consecutive", "unique_dim_consecutive",
}  # fmt: skip


class Reads(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run the operation."""
        name = function.overloadpacket.__name__
        by_mask = name in ("index", "index_put", "index_put_") and any(
            index is not None and index.dtype in (torch.bool, torch.uint8) for index in args[1]
        )
        if name in READS or by_mask:
            self.found[name] += 1
        return function(*args, **(kwargs or {}))

    def counting(self, function: Any) -> Any:
        """Count in every call of a function."""

        def call(*args: Any, **words: Any) -> Any:
            with self:
                return function(*args, **words)

        return call
