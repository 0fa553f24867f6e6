"""Write safetensors files from a thread without holding up others."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from data_schemas.files import write_atomic_by

# The format's names for what is saved here, in the order in which the library lays tensors out.
_DTYPES = {
    torch.int64: "I64",
    torch.float64: "F64",
    torch.float32: "F32",
    torch.int32: "I32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


def write_tensors(tensors: Mapping[str, Tensor], path: Path, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write tensors to a file atomically, byte for byte as `safetensors.torch.save` does.

    The library copies all tensors in memory, and no other Python thread runs meanwhile; this function copies none.

    Args:
        tensors: Contiguous tensors on the CPU, by name.
        path: File to write.
        metadata: Strings for the header, by name.

    Raises:
        ProtoRKDError: the disk is full or the folder cannot be written; an earlier file stays as it is.
    """
    order = {dtype: number for number, dtype in enumerate(_DTYPES)}
    ordered = dict(sorted(tensors.items(), key=lambda item: (order[item[1].dtype], item[0])))
    header = _header(ordered, metadata)

    def write(partial: Path) -> None:
        with partial.open("wb") as file:
            data = (tensor.reshape(-1).view(torch.uint8).numpy().data for tensor in ordered.values())
            file.writelines([len(header).to_bytes(8, "little"), header, *data])

    write_atomic_by(path, write)


def _header(tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None) -> bytes:
    entries: dict[str, object] = {"__metadata__": metadata} if metadata else {}
    start = 0
    for name, tensor in tensors.items():
        stop = start + tensor.nbytes
        entries[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, stop]}
        start = stop
    text = json.dumps(entries, separators=(",", ":"), ensure_ascii=False).encode()
    return text + b" " * (-len(text) % 8)
