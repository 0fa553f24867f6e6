"""Embeddings of an artifact as an array that is read from disk when it is indexed, each row of it proven."""

import operator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data_schemas.embedding_array import CAPTION_KIND, EmbeddingArray, Shard
from data_schemas.errors import ProtoRKDError
from pipeline.store.file_digests import facts_of
from pipeline.store.store import Artifact


class EmbeddingRows:
    """Rows of embeddings, which come as NumPy arrays where they are indexed: ``rows[3]``, ``rows[:9]``, ``rows[[5]]``.

    A shard is compared with the digest in the artifact's record when a row of it is first read, or when its file has
    been written since; each read checks the chunks' checksums and that all numbers are finite.

    Args:
        artifact: Artifact of encode-teacher, embed or encode-images.
        kind: Kind of its embeddings.

    Raises:
        ProtoRKDError: there is no array, or a shard is missing.

    Shapes:
        rows: (rows, dim), float16 or float32.
    """

    def __init__(self, artifact: Artifact, *, kind: str = CAPTION_KIND) -> None:
        self._artifact = artifact
        self._array = EmbeddingArray.open(artifact.path, kind=kind)
        self._shards = list(self._array.shards())
        self._proven: dict[str, int] = {}  # facts of the shards whose bytes were compared

    @property
    def shape(self) -> tuple[int, int]:
        """Number of rows, and their width."""
        return self._array.rows, self._array.dim

    @property
    def dtype(self) -> "np.dtype[Any]":
        """Type of the numbers."""
        return self._array.dtype

    ndim = 2

    def __len__(self) -> int:
        return self._array.rows

    def __repr__(self) -> str:
        return f"EmbeddingRows(shape={self.shape}, dtype={self.dtype}, {self._artifact.name})"

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Read all rows, for NumPy."""
        return np.asarray(self[:], dtype=dtype)

    def __getitem__(self, key: Any) -> NDArray[Any]:
        """Read rows, as NumPy indexes them; what follows the rows' index chooses columns of them.

        Raises:
            IndexError: there is no such row, or rows and columns are both given by lists.
            ProtoRKDError: a shard is missing, or is not as it was written.
        """
        rows, *columns = key if isinstance(key, tuple) else (key,)
        numbers = self._numbers(rows)
        listed = [each for each in columns if not isinstance(each, slice | type(...)) and np.ndim(each)]
        if listed and not isinstance(rows, slice | type(...)):
            raise IndexError("Rows and columns must not both be given by lists; choose rows first, then columns.")
        values = self._read(numbers.reshape(-1))
        return values[(slice(None), *columns)] if numbers.ndim else values[(0, *columns)]

    def _numbers(self, rows: Any) -> NDArray[np.int64]:
        """Return the numbers of the rows that an index chooses; () for one."""
        if rows is ... or isinstance(rows, slice):
            return np.arange(len(self))[slice(None) if rows is ... else rows]
        if not np.ndim(rows):
            rows = operator.index(rows)
        return np.asarray(np.arange(len(self))[rows], np.int64)

    def _read(self, numbers: NDArray[np.int64]) -> NDArray[Any]:
        starts = [shard.start for shard in self._shards]
        shards = [self._shards[place] for place in np.unique(np.searchsorted(starts, numbers, side="right") - 1)]
        for shard in shards:
            self._prove(shard)
        values = self._array.take(numbers)
        for shard in shards:
            if self._facts(shard) != self._proven[shard.path]:
                raise ProtoRKDError(
                    f"{self._artifact.path / shard.path} must stay as it is while rows of it are read; it was written "
                    "or removed meanwhile. Read them again."
                )
        return values

    def _prove(self, shard: Shard) -> None:
        facts = self._facts(shard)
        if not facts or self._proven.get(shard.path) != facts:
            self._artifact.require_whole((shard.path,), read=True)
            self._proven[shard.path] = facts

    def _facts(self, shard: Shard) -> int:
        try:
            return facts_of((self._artifact.path / shard.path).stat())
        except OSError:
            return 0
