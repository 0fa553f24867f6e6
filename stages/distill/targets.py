"""The teacher's embeddings as one table that a training step gathers rows from."""

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from data_schemas.teacher_embeddings import TeacherEmbeddings
from pipeline.log import log

_BLOCK_ROWS = 1 << 18
_AUTO_SHARE = 0.5  # of the free memory that a table may take


class Targets:
    """Cached embeddings by caption row.

    Args:
        table: (captions, dim), float16 or float32, on the device, in RAM or mapped from a file.
        device: where gathered rows are wanted.
        placement: where the table is: "device", "ram" or "mapped".
    """

    def __init__(self, table: Tensor, device: torch.device, *, placement: str = "ram") -> None:
        self.placement = placement
        self._table = table
        self._device = device

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return self._table.shape[1]

    @property
    def num_captions(self) -> int:
        """How many captions there are."""
        return len(self._table)

    def is_zero(self) -> Tensor:
        """Which captions have the zero vector: (captions,), bool, on the CPU."""
        starts = range(0, len(self._table), _BLOCK_ROWS)
        return torch.cat([(self._table[start : start + _BLOCK_ROWS] == 0).all(dim=1).cpu() for start in starts])

    def gather(self, rows: Tensor) -> Tensor:
        """Take the embeddings of caption rows.

        Shapes:
            rows: (batch,), int64.
            returns: (batch, dim), float32, on the device.
        """
        found = self._table.index_select(0, rows.to(self._table.device, non_blocking=True))
        return found.to(self._device, non_blocking=True).float()


def load_targets(embeddings: TeacherEmbeddings, *, placement: str, device: torch.device, scratch: Path) -> Targets:
    """Read all embeddings once into a table.

    Args:
        embeddings: verified.
        placement: "device", "ram", "mapped" (a scratch file), or "auto": the first of these with room for it.
        device: where gathered rows are wanted.
        scratch: file for the mapped table.
    """
    rows, dim, dtype = embeddings.rows, embeddings.dim, embeddings.dtype
    if placement == "auto":
        placement = _choose(rows * dim * dtype.itemsize, device)
    if placement == "mapped":
        scratch.parent.mkdir(parents=True, exist_ok=True)
        table = torch.from_numpy(np.memmap(scratch, dtype=dtype, mode="w+", shape=(rows, dim)))
        scratch.unlink()  # the mapping holds it until the process ends, however that comes about
    else:
        kind = torch.from_numpy(np.empty(0, dtype)).dtype
        table = torch.empty(rows, dim, dtype=kind, device=device if placement == "device" else "cpu")
    for shard in embeddings.shards():
        table[shard.start : shard.stop] = torch.from_numpy(embeddings.read(shard.start, shard.stop))
    log.info("distill: %d x %d targets, placed: %s", rows, dim, placement)
    return Targets(table, device, placement=placement)


def _choose(size: int, device: torch.device) -> str:
    if device.type == "cuda" and size < _AUTO_SHARE * torch.cuda.mem_get_info(device)[0]:
        return "device"
    num_neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # processes on this machine: each takes a table
    return "ram" if size < _AUTO_SHARE * _free_memory() / num_neighbours else "mapped"


def _free_memory() -> int:
    """Memory that can be had without swapping, in bytes; where the system does not tell, 4 GB."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 4 << 30
