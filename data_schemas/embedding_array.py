"""Embeddings on disk: one row a distinct caption or image, in a zarr v3 array sharded by rows, with checksums."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
import zarr.codecs
from numpy.typing import NDArray

from data_schemas.errors import ProtoRKDError
from data_schemas.files import disk_error, fsync

ARRAY_NAME, FEATURES_NAME = "embeddings.zarr", "features.zarr"
SCHEMA_VERSION = 1
CAPTION_KIND = "protorkd teacher embeddings"
IMAGE_KIND = "protorkd picture embeddings"
FEATURE_KIND = "protorkd image features"
_MADE_BY = {CAPTION_KIND: "encode-teacher", IMAGE_KIND: "embed", FEATURE_KIND: "encode-images"}
_CHUNK_ROWS = 256
# Otherwise zarr makes a task of each inner chunk, which takes longer than the chunk itself.
_ONE_TASK_A_SHARD = {"codec_pipeline.batch_size": 1 << 16}
_CRC_BYTES = 4  # a CRC-32C ends each chunk, and the index at the end of a shard
_INDEX_DTYPE = np.dtype("<u8")  # where each chunk begins and how long it is


def array_name(kind: str) -> str:
    """Return the name of the folder that an array of a kind lies in."""
    return FEATURES_NAME if kind == FEATURE_KIND else ARRAY_NAME


def stored_bytes(rows: int, dim: int, dtype: str) -> int:
    """Estimate how many bytes an array takes on disk: whole chunks, each with its checksum and its index entry."""
    chunks = -(-rows // _CHUNK_ROWS)
    chunk = _CHUNK_ROWS * dim * np.dtype(dtype).itemsize + _CRC_BYTES + 2 * _INDEX_DTYPE.itemsize
    return chunks * chunk


def are_finite(values: NDArray[Any]) -> bool:
    """Tell whether all numbers are finite, several times as quickly for half precision as NumPy does.

    Shapes:
        values: any shape, float16 or float32.
    """
    if values.dtype != np.float16:
        return bool(np.isfinite(values).all())
    # NaN and infinity are the halves whose exponent is all ones.
    return int((np.ascontiguousarray(values).view(np.uint16) & 0x7FFF).max(initial=0)) < 0x7C00


@dataclass(frozen=True)
class Shard:
    """Rows ``start`` to ``stop`` of the array, in one file.

    Args:
        path: Path of the file, relative to the artifact's folder.
        start: First row.
        stop: Row after the last.
    """

    path: str
    start: int
    stop: int


class EmbeddingArray:
    """The array of an artifact, written and read by whole shards.

    zarr reads a missing shard as fill values and does not force anything to disk: the artifact's journal and record say
    which shards are whole. Each inner chunk ends in a CRC-32C, so altered bytes fail to read. All rows are finite, and
    the fill value is NaN: neither what is missing nor what is no number is written or read.

    Shapes:
        array: (rows, dim), float16 or float32; row k belongs to the caption, or the image, of row k.
    """

    def __init__(self, root: Path, array: "zarr.Array[Any]", *, name: str) -> None:
        self._root = root
        self._array = array
        self._name = name

    @property
    def array(self) -> "zarr.Array[Any]":
        """The array itself, for reading with zarr."""
        return self._array

    @classmethod
    def create(
        cls, root: Path, *, rows: int, dim: int, dtype: str, shard_rows: int, kind: str = CAPTION_KIND
    ) -> "EmbeddingArray":
        """Write the array's metadata into the folder ``root``; shard files that already lie there stay.

        Args:
            root: The artifact's folder.
            rows: Number of distinct captions or images.
            dim: Width of an embedding.
            dtype: "float16" or "float32".
            shard_rows: Rows in one shard file, a multiple of 256.
            kind: `CAPTION_KIND`; `IMAGE_KIND` for a student's embeddings of images; or `FEATURE_KIND` for a backbone's
                features of them.

        Raises:
            ProtoRKDError: the disk is full or the folder cannot be written.
        """
        path = root / array_name(kind)
        try:
            (path / "zarr.json").unlink(missing_ok=True)
            array = zarr.create_array(
                path,
                shape=(rows, dim),
                dtype=dtype,
                chunks=(_CHUNK_ROWS, dim),
                shards=(shard_rows, dim),
                compressors=[zarr.codecs.Crc32cCodec()],
                fill_value=float("nan"),
                attributes={"kind": kind, "schema_version": SCHEMA_VERSION},
            )
            fsync(path / "zarr.json")
        except OSError as error:
            raise disk_error(path, error) from error
        return cls(root, array, name=path.name)

    @classmethod
    def open(cls, root: Path, *, kind: str = CAPTION_KIND) -> "EmbeddingArray":
        """Open the array of the artifact in folder ``root`` for reading.

        Raises:
            ProtoRKDError: there is none, it is something else, or a shard is missing or empty.
        """
        path = root / array_name(kind)
        try:
            array = zarr.open_array(path, mode="r")
        except Exception as error:  # zarr raises many kinds
            raise ProtoRKDError(f"{path} must be a zarr array; {error}. Run {_MADE_BY[kind]} again.") from error
        if array.attrs.get("kind") != kind or array.ndim != 2:
            raise ProtoRKDError(f"{path} must hold {kind}; got {dict(array.attrs)}.")
        embeddings = cls(root, array, name=path.name)
        for shard in embeddings.shards():
            file = root / shard.path
            if not file.is_file() or not file.stat().st_size:
                raise ProtoRKDError(f"{file} must hold rows {shard.start} to {shard.stop}; it is missing or empty.")
        return embeddings

    @property
    def rows(self) -> int:
        """Number of distinct captions or images."""
        return int(self._array.shape[0])

    @property
    def dim(self) -> int:
        """Width of an embedding."""
        return int(self._array.shape[1])

    @property
    def dtype(self) -> "np.dtype[Any]":
        """Type of the stored numbers."""
        return np.dtype(self._array.dtype)

    def shards(self) -> Iterator[Shard]:
        """Yield all shards, in row order."""
        shard_rows = (self._array.shards or self._array.chunks)[0]
        for number, start in enumerate(range(0, self.rows, shard_rows)):
            path = f"{self._name}/c/{number}/0"
            yield Shard(path=path, start=start, stop=min(start + shard_rows, self.rows))

    def write(self, shard: Shard, values: NDArray[Any]) -> None:
        """Write one whole shard and force it to disk.

        Raises:
            ProtoRKDError: a number is not finite, the disk is full, or the folder cannot be written.

        Shapes:
            values: (stop - start, dim), the array's dtype, finite.
        """
        path = self._root / shard.path
        self._check_finite(values, path, start=shard.start)
        try:
            path.unlink(missing_ok=True)  # zarr would read the old shard first, and fail if it is torn
            with zarr.config.set(_ONE_TASK_A_SHARD):
                self._array[shard.start : shard.stop] = values
            fsync(path)
            fsync(path.parent)
        except OSError as error:
            raise disk_error(path, error) from error

    def read(self, start: int, stop: int) -> NDArray[Any]:
        """Read rows ``start`` to ``stop``.

        Raises:
            ProtoRKDError: the bytes do not pass their checksum, a shard is missing, or a number is not finite.

        Shapes:
            returns: (stop - start, dim), the array's dtype, finite.
        """
        return self.take(slice(start, stop))

    def take(self, rows: NDArray[np.int64] | slice) -> NDArray[Any]:
        """Read rows by their numbers, in the given order.

        Raises:
            ProtoRKDError: as `read`.

        Shapes:
            rows: (chosen,), from 0 to the number of rows; or a slice with a start and a stop.
            returns: (chosen, dim), the array's dtype, finite.
        """
        path = self._root / self._name
        first, last = (rows.start, rows.stop) if isinstance(rows, slice) else (rows.min(initial=0), rows.max(initial=0))
        try:
            values: NDArray[Any] = np.asarray(self._array.oindex[rows, :])
        except (ValueError, OSError) as error:
            raise ProtoRKDError(f"{path} must be as it was written; rows {first} to {last}: {error}.") from error
        self._check_finite(values, path, start=first)
        return values

    def read_sound(self, shard: Shard) -> NDArray[Any] | None:
        """Read a shard of a draft, or return None where it has to be written again.

        Shapes:
            returns: (stop - start, dim), the array's dtype, finite.
        """
        try:
            return self.read(shard.start, shard.stop)
        except ProtoRKDError:
            return None

    def decode(self, shard: Shard, data: bytes, *, out: NDArray[Any]) -> None:
        """Decode a shard's rows from the bytes of its file.

        Reading through zarr would ask for each chunk separately.

        Args:
            shard: The shard to decode.
            data: The whole file, already verified: the chunks' own checksums are not checked again.
            out: Array that receives the rows.

        Raises:
            ProtoRKDError: the bytes do not have the layout that `write` produces, or a number is not finite.

        Shapes:
            out: (stop - start, dim), the array's dtype.
        """
        stored = self.dtype.newbyteorder("<")
        num_chunks = (self._array.shards or self._array.chunks)[0] // _CHUNK_ROWS
        index_bytes = num_chunks * 2 * _INDEX_DTYPE.itemsize
        chunk_bytes = _CHUNK_ROWS * self.dim * stored.itemsize
        places = np.frombuffer(data[-index_bytes - _CRC_BYTES : -_CRC_BYTES], _INDEX_DTYPE).reshape(-1, 2)
        for row, (offset, size) in zip(range(0, len(out), _CHUNK_ROWS), places.tolist(), strict=False):
            if size != chunk_bytes + _CRC_BYTES or offset + size > len(data):
                path = self._root / shard.path
                raise ProtoRKDError(
                    f"{path} must hold plain chunks of {_CHUNK_ROWS} rows; the one at row {shard.start + row} is not. "
                    "Run its stage again with --force."
                )
            chunk = np.frombuffer(data, stored, count=_CHUNK_ROWS * self.dim, offset=offset).reshape(-1, self.dim)
            rows = out[row : row + _CHUNK_ROWS]
            rows[:] = chunk[: len(rows)]
        self._check_finite(out, self._root / shard.path, start=shard.start)

    def _check_finite(self, values: NDArray[Any], path: Path, *, start: int) -> None:
        if not are_finite(values):
            row = start + int(np.flatnonzero(~np.isfinite(values).all(axis=1))[0])
            raise ProtoRKDError(
                f"{path} must hold finite numbers; row {row} has NaN or infinity. Run verify --repair on its store."
            )
