"""Reuse rows of embeddings from earlier artifacts of the same model and recipe, found by a key."""

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_schemas.embedding_array import EmbeddingArray, array_name
from data_schemas.errors import ProtoRKDError
from data_schemas.files import allocate
from pipeline.log import log
from pipeline.stage import Context
from pipeline.store.draft import Draft
from pipeline.store.store import Artifact, Store

_SCRATCH_NAME = "known-rows.bin"


@dataclass(frozen=True)
class ReusedRows:
    """Embeddings taken from earlier artifacts; another process that they are handed to reads the same file.

    Args:
        is_known: Rows that are reused, (rows,), bool.
        values: Embeddings, (rows, dim), in the recipe's dtype, on disk; only the known rows are defined.
    """

    is_known: NDArray[np.bool_]
    values: "np.memmap[Any, Any]"

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return int(self.values.shape[1])

    def __reduce__(self) -> tuple[Any, ...]:
        self.values.flush()
        return _open_rows, (self.is_known, self.values.filename, self.values.dtype, self.values.shape)


def _open_rows(is_known: NDArray[np.bool_], path: Path, dtype: "np.dtype[Any]", shape: tuple[int, int]) -> ReusedRows:
    return ReusedRows(is_known, np.memmap(path, dtype=dtype, mode="r", shape=shape))


def find_known_rows(
    keys: pa.Array,
    draft: Draft,
    *,
    sources: Sequence[Artifact],
    context: Context,
    read_keys: Callable[[Artifact], pa.Array],
    kind: str,
) -> ReusedRows | None:
    """Gather the embeddings that artifacts already have; None if they have none of them.

    Every source is read once, in row order, however the keys are ordered. It is declared in use before it is read, and
    what is read of it is compared with its record: one that is damaged, or removed meanwhile, gives no rows.

    Args:
        keys: Distinct keys of the wanted rows; a null key matches nothing.
        draft: Draft whose state folder holds the gathered rows, so that they need not fit into memory.
        sources: Artifacts of the same model and recipe, the likeliest first.
        context: Context of the run, with the store of the sources.
        read_keys: Reads the keys of a source's rows, in row order, and compares their bytes with the record.
        kind: Kind of the sources' embeddings.
    """
    is_known = np.zeros(len(keys), dtype=np.bool_)
    values: np.memmap[Any, Any] | None = None
    for each in sources:
        if is_known.all():
            break
        context.use(each.record.digest)
        try:
            source = context.store.fetch(each)
            rows = _rows_in(keys, source, read_keys)
            rows[is_known] = -1
            if not (rows >= 0).any():
                continue
            source.require_whole((f"{array_name(kind)}/zarr.json",), read=True)
            embeddings = EmbeddingArray.open(source.path, kind=kind)
            if values is None:
                values = scratch_rows(draft, len(keys), embeddings.dim, embeddings.dtype)
            _copy(source, embeddings, rows, values)
        except ProtoRKDError as error:
            log.info("passing over %s, which is damaged: %s", each.name, error)
            continue
        is_known |= rows >= 0
    return None if values is None or not is_known.any() else ReusedRows(is_known=is_known, values=values)


def count_unknown_rows(
    keys: pa.Array, *, sources: Sequence[Artifact], store: Store, read_keys: Callable[[Artifact], pa.Array]
) -> int:
    """Count the keys that `find_known_rows` would not find, without reading embeddings.

    Args:
        keys: Distinct keys of the wanted rows; a null key matches nothing.
        sources: Artifacts of the same model and recipe.
        store: Store of the sources.
        read_keys: Reads the keys of a source's rows, in row order, and compares their bytes with the record.
    """
    is_known = np.zeros(len(keys), dtype=np.bool_)
    for source in sources:
        with contextlib.suppress(ProtoRKDError):  # a damaged source is skipped
            is_known |= _rows_in(keys, store.fetch(source), read_keys) >= 0
    return int((~is_known).sum())


def _rows_in(keys: pa.Array, source: Artifact, read_keys: Callable[[Artifact], pa.Array]) -> NDArray[np.int64]:
    source.require_whole()
    found = pc.index_in(keys, value_set=read_keys(source), skip_nulls=True)
    return np.asarray(pc.fill_null(found, -1), dtype=np.int64)


def scratch_rows(draft: Draft, num_rows: int, dim: int, dtype: "np.dtype[Any]") -> "np.memmap[Any, Any]":
    """Make room for rows on disk, in the draft's state, so that they need not fit into memory: (num_rows, dim)."""
    path = draft.state / _SCRATCH_NAME
    allocate(path, num_rows * dim * dtype.itemsize)
    return np.memmap(path, dtype=dtype, mode="r+", shape=(num_rows, dim))


def _copy(source: Artifact, embeddings: EmbeddingArray, rows: NDArray[np.int64], values: NDArray[Any]) -> None:
    """Copy rows of an artifact, read by whole shards whose bytes are those of the record."""
    wanted = np.flatnonzero(rows >= 0)
    wanted = wanted[np.argsort(rows[wanted], kind="stable")]
    for shard in embeddings.shards():
        first, last = np.searchsorted(rows[wanted], [shard.start, shard.stop])
        if first < last:
            here = wanted[first:last]
            read = np.empty((shard.stop - shard.start, embeddings.dim), embeddings.dtype)
            embeddings.decode(shard, source.read_whole(shard.path), out=read)
            values[here] = read[rows[here] - shard.start]
