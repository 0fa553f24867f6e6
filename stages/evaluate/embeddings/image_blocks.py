"""Blocks of embedded images, which a pass writes as it goes, so that a kill costs little."""

import errno
import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor

from data_schemas.files import write_atomic_by

_REJECTED, _SHA256 = "rejected", "sha256"


@dataclass(frozen=True)
class Block:
    """Embeddings of the images that could be read, and why the others could not.

    Args:
        tensors: Tensors by the names that `student_embeddings` writes, each (readable, ...), in image order.
        rejected: Reasons, by the image's place in its set.
    """

    tensors: dict[str, Tensor]
    rejected: dict[int, str]

    @classmethod
    def joined(cls, blocks: Sequence["Block"]) -> "Block":
        """Join several blocks into one, in their order."""
        names = blocks[0].tensors
        tensors = {name: torch.cat([block.tensors[name] for block in blocks]) for name in names}
        return cls(tensors, {row: reason for block in blocks for row, reason in block.rejected.items()})

    def write(self, path: Path) -> None:
        """Write the block with its checksum, as a whole file or not at all.

        Raises:
            ProtoRKDError: the disk is full or the folder cannot be written.
        """
        save_tensors(self.tensors, path, metadata={_REJECTED: json.dumps(self.rejected), _SHA256: self._sha256()})

    @classmethod
    def read(cls, path: Path) -> "Block":
        """Read a block; its tensors are mapped from the file.

        Raises:
            OSError, SafetensorError: there is none.
        """
        with safetensors.safe_open(path, framework="pt") as file:
            rejected = json.loads(file.metadata()[_REJECTED])
        return cls(safetensors.torch.load_file(path), {int(row): reason for row, reason in rejected.items()})

    @classmethod
    def is_whole(cls, path: Path) -> bool:
        """Check whether the file holds a block with the bytes that were written."""
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
            return bool(cls.read(path)._sha256() == metadata[_SHA256])
        except (OSError, KeyError, ValueError, safetensors.SafetensorError):
            return False

    def _sha256(self) -> str:
        digest = hashlib.sha256(json.dumps(self.rejected).encode())
        for name in sorted(self.tensors):
            digest.update(self.tensors[name].contiguous().numpy().data)
        return digest.hexdigest()


def save_tensors(tensors: dict[str, Tensor], path: Path, *, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all.

    Raises:
        ProtoRKDError: the disk is full or the folder cannot be written.
    """

    def write(partial: Path) -> None:
        try:
            safetensors.torch.save_file(tensors, partial, metadata)  # unlike save, makes no copy in memory
        except safetensors.SafetensorError as error:
            code = re.search(r"os error (\d+)", str(error))
            raise OSError(int(code[1]) if code else errno.EIO, str(error)) from error

    write_atomic_by(path, write)
