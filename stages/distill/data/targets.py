"""Cached rows, the teacher's embeddings and the features of images, as tables that a training step gathers from."""

import mmap
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_schemas.embedding_array import CAPTION_KIND, FEATURE_KIND, EmbeddingArray, Shard, array_name
from data_schemas.files import write_atomic_by
from pipeline.log import log
from pipeline.peers import fail_together
from pipeline.store.draft import STATE_FOLDER, Draft
from pipeline.store.store import Artifact
from stages.components.compute.device import send
from stages.components.compute.distributed import Ranks

_AUTO_SHARE = 0.5  # of the free memory that a table may take
_THREADS = 8  # that read shards; hashing, the slowest part, runs in parallel
_PLACEMENTS = ("device", "ram", "mapped")  # from the fastest to the one that always has room


class EmbeddingTable:
    """Rows of an artifact's array, wherever they are kept.

    Args:
        table: The rows: (rows, dim), float16 or float32; on the device, in RAM or mapped from a file.
        device: Device on which gathered rows are wanted.
        placement: Place of the table: "device", "ram" or "mapped".
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
    def num_rows(self) -> int:
        """Number of rows."""
        return len(self._table)

    def take(self, rows: Tensor) -> Tensor:
        """Take rows as they are stored.

        Shapes:
            rows: (batch,), int64.
            returns: (batch, dim), the table's dtype, on the device.
        """
        if self._table.device.type != "cpu":
            return self._table.index_select(0, send(rows, self._device))
        rows = rows.cpu()  # waits for rows on the device: a CPU table is read at once
        if self._device.type == "cpu":
            # In this thread alone: torch shares a copy of microseconds among all, and waits for those that are busy.
            return torch.from_numpy(np.take(self._table.numpy(), rows.numpy(), axis=0))
        # From pinned memory, which torch gives out again when the copy is through, the copy goes on in the background.
        found = torch.empty(len(rows), self.dim, dtype=self._table.dtype, pin_memory=self._device.type == "cuda")
        torch.index_select(self._table, 0, rows, out=found)
        return send(found, self._device)

    def gather(self, rows: Tensor) -> Tensor:
        """Take rows to compute with; only these are widened, on the device.

        Shapes:
            rows: (batch,), int64.
            returns: (batch, dim), float32, on the device.
        """
        return self.take(rows).float()


class Targets(EmbeddingTable):
    """The teacher's embeddings by caption row."""

    @property
    def num_captions(self) -> int:
        """Number of captions."""
        return self.num_rows

    def is_zero(self) -> Tensor:
        """Find the captions with the zero vector: (captions,), bool, on the CPU."""
        found = self._table[:, 0] == 0
        rows = found.nonzero().flatten()  # few rows begin with a zero; only these are looked at in full
        found[rows] = (self._table[rows] == 0).all(dim=1)
        return found.cpu()


def load_targets(artifact: Artifact, *, placement: str, device: torch.device, draft: Draft, ranks: Ranks) -> Targets:
    """Read all embeddings of captions once into a table; arguments and errors are those of `load_features`."""
    table, placement = _load(artifact, CAPTION_KIND, "targets", placement, device=device, draft=draft, ranks=ranks)
    return Targets(table, device, placement=placement)


def load_features(
    artifact: Artifact, *, placement: str, device: torch.device, draft: Draft, ranks: Ranks
) -> EmbeddingTable:
    """Read all features of images once into a table, and refuse damaged ones.

    The ranks of one draft share a mapped table: the first writes it into the draft's state, where a resumed run finds
    it and a finished one leaves nothing; the system keeps one copy of it in memory for all.

    Args:
        artifact: Artifact that holds the array.
        placement: Place of the table: "device", "ram", "mapped", or "auto", which is the first of these with room for
            it on every rank.
        device: Device on which gathered rows are wanted.
        draft: Draft whose state holds a mapped table.
        ranks: Ranks that train together.

    Raises:
        ProtoRKDError: the array is damaged, or the disk is full.
    """
    table, placement = _load(artifact, FEATURE_KIND, "features", placement, device=device, draft=draft, ranks=ranks)
    return EmbeddingTable(table, device, placement=placement)


def _load(
    artifact: Artifact, kind: str, name: str, placement: str, *, device: torch.device, draft: Draft, ranks: Ranks
) -> tuple[Tensor, str]:
    artifact.require_whole((f"{array_name(kind)}/zarr.json",), read=True)
    embeddings = EmbeddingArray.open(artifact.path, kind=kind)
    size = embeddings.rows * embeddings.dim * embeddings.dtype.itemsize
    if placement == "auto":
        placement = max(ranks.gather_objects(_choose(size, device)), key=_PLACEMENTS.index)
    if placement == "mapped":
        table = _map(artifact, embeddings, name, draft=draft, ranks=ranks)
    elif placement == "device" and device.type != "cpu":
        table = _put(artifact, embeddings, device)
    else:
        table = torch.from_numpy(_read(artifact, embeddings))
    log.info("distill: %d x %d %s, placed: %s", embeddings.rows, embeddings.dim, name, placement)
    return table, placement


def _read(artifact: Artifact, embeddings: EmbeddingArray) -> NDArray[Any]:
    table = np.empty((embeddings.rows, embeddings.dim), embeddings.dtype)

    def take(shard: Shard, data: bytes) -> None:
        embeddings.decode(shard, data, out=table[shard.start : shard.stop])

    _each_shard(artifact, embeddings, take)
    return table


def _put(artifact: Artifact, embeddings: EmbeddingArray, device: torch.device) -> Tensor:
    kind = torch.from_numpy(np.empty(0, embeddings.dtype)).dtype
    table = torch.empty(embeddings.rows, embeddings.dim, dtype=kind, device=device)

    def take(shard: Shard, data: bytes) -> None:
        table[shard.start : shard.stop] = torch.from_numpy(_rows(embeddings, shard, data))

    _each_shard(artifact, embeddings, take)
    return table


def _map(artifact: Artifact, embeddings: EmbeddingArray, kind: str, *, draft: Draft, ranks: Ranks) -> Tensor:
    name = f"{STATE_FOLDER}/{kind}-{artifact.record.digest}.bin"

    def write(partial: Path) -> None:
        partial.touch()

        def take(shard: Shard, data: bytes) -> None:
            with partial.open("r+b") as file:
                file.seek(shard.start * embeddings.dim * embeddings.dtype.itemsize)
                file.write(_rows(embeddings, shard, data).data)

        _each_shard(artifact, embeddings, take)

    with fail_together(ranks):
        if ranks.is_first and not draft.is_whole(name):
            write_atomic_by(draft.path / name, write)
            draft.adopt(name)
    with (draft.path / name).open("rb") as file:
        mapping = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)  # torch wants writable memory
    if hasattr(mmap, "MADV_RANDOM"):
        mapping.madvise(mmap.MADV_RANDOM)  # a row's neighbours on disk are no more likely to be asked for than others
    return torch.from_numpy(np.frombuffer(mapping, embeddings.dtype).reshape(embeddings.rows, embeddings.dim))


def _rows(embeddings: EmbeddingArray, shard: Shard, data: bytes) -> NDArray[Any]:
    values = np.empty((shard.stop - shard.start, embeddings.dim), embeddings.dtype)
    embeddings.decode(shard, data, out=values)
    return values


def _each_shard(artifact: Artifact, embeddings: EmbeddingArray, take: Callable[[Shard, bytes], None]) -> None:
    """Pass on the bytes of every shard, read once and checked against the record, by several threads at a time."""

    def read(shard: Shard) -> None:
        take(shard, artifact.read_whole(shard.path))

    with ThreadPoolExecutor(min(_THREADS, os.cpu_count() or 1)) as pool:
        for _ in pool.map(read, embeddings.shards()):
            pass


def _choose(size: int, device: torch.device) -> str:
    if device.type == "cuda" and size < _AUTO_SHARE * torch.cuda.mem_get_info(device)[0]:
        return "device"
    num_neighbours = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))  # each process on this machine holds a table
    return "ram" if size < _AUTO_SHARE * _free_memory() / num_neighbours else "mapped"


def _free_memory() -> int:
    """Measure the memory that is free without swapping, in bytes; 4 GB where the system does not tell."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return 4 << 30
