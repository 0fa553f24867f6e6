"""Packed images on disk: shards of consecutive records, and for each shard an index of what lies where."""

import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Any, BinaryIO

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from data_schemas.errors import ProtoRKDError, in_one_line
from data_schemas.files import read_json, write_atomic_by, write_json
from data_schemas.regular_files import open_regular

FORMATS = ("jpeg", "raw")
CONFIG_NAME = "pack.json"
INDEX_FOLDER = "index"
SHARD_FOLDER = "shards"
SCHEMA_VERSION = 1
ABSENT = -1

INDEX_SCHEMA = pa.schema(
    [
        pa.field("image", pa.large_string(), nullable=False),
        pa.field("shard", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("length", pa.int64(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("crc32c", pa.uint32(), nullable=False),
        pa.field("reason", pa.large_string()),
    ],
    metadata={"protorkd": "packed images 1"},
)

_NUMBERS = ["shard", "offset", "length", "height", "width", "crc32c"]
_MAX_OPEN = 512  # mapped shards per process: each holds a file open, and a process may have 1,024


@dataclass(frozen=True)
class Record:
    """An image as it is packed.

    Args:
        data: A JPEG file's bytes, or 8-bit RGB by row and column.
        height: Height of the upright image, in pixels.
        width: Width of the upright image, in pixels.
    """

    data: bytes
    height: int
    width: int


def shard_path(number: int) -> str:
    """Return the path of a shard, relative to the artifact's folder."""
    return f"{SHARD_FOLDER}/{number:06}.bin"


def index_path(number: int) -> str:
    """Return the path of a shard's index, relative to the artifact's folder."""
    return f"{INDEX_FOLDER}/{number:06}.parquet"


def write_config(root: Path, *, format_: str) -> None:
    """Write ``pack.json``, which names the format of all records, into an artifact's folder."""
    write_json(root / CONFIG_NAME, {"format": format_, "schema_version": SCHEMA_VERSION})


def write_shard(root: Path, number: int, images: Sequence[str], records: Iterable[Record | str]) -> None:
    """Write one shard and its index, each whole.

    Args:
        root: The artifact's folder.
        number: Number of the shard, from 0.
        images: Paths of the images, as their manifest writes them.
        records: For each path its record, or why there is no image; consumed one by one, so that none stays in memory.

    Raises:
        ProtoRKDError: the disk is full or the folder cannot be written.
    """
    rows: list[dict[str, Any]] = []

    def write(partial: Path) -> None:
        rows.clear()
        with partial.open("wb") as file:
            rows.extend(_write_records(file, number, images, records))

    write_atomic_by(root / shard_path(number), write)
    table = pa.Table.from_pylist(rows, schema=INDEX_SCHEMA)
    write_atomic_by(root / index_path(number), lambda partial: pq.write_table(table, partial, write_page_checksum=True))


def _write_records(
    file: BinaryIO, number: int, images: Sequence[str], records: Iterable[Record | str]
) -> Iterator[dict[str, Any]]:
    offset = 0
    for image, record in zip(images, records, strict=True):
        packed = Record(b"", 0, 0) if isinstance(record, str) else record
        file.write(packed.data)
        yield {
            "image": image,
            "shard": number,
            "offset": offset,
            "length": len(packed.data),
            "height": packed.height,
            "width": packed.width,
            "crc32c": google_crc32c.value(packed.data),
            "reason": record if isinstance(record, str) else None,
        }
        offset += len(packed.data)


def read_index(root: Path, columns: list[str] | None = None, *, shard: int | None = None) -> pa.Table:
    """Read the indexes of all shards, in their order, or the index of one.

    Args:
        root: The artifact's folder.
        columns: Columns of `INDEX_SCHEMA`; all by default.
        shard: Number of the only shard to read; None reads all.

    Raises:
        ProtoRKDError: an index is missing or damaged.
    """
    folder = root / INDEX_FOLDER
    files = sorted(folder.glob("*.parquet")) if shard is None else [root / index_path(shard)]
    try:
        tables = [pq.read_table(file, columns=columns, page_checksum_verification=True) for file in files]
        return pa.concat_tables(tables)
    except (OSError, ValueError, pa.ArrowException) as error:  # a damaged footer decodes to anything
        raise ProtoRKDError(f"{folder} must hold whole parquet files; {in_one_line(error)}. Run pack again.") from error


class PackedImages:
    """The images of an artifact, for reading.

    Indexes are read, and shards mapped, when they are first needed: pickling passes only the path. Forked processes
    share what was read before.

    Args:
        root: The artifact's folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._map = functools.lru_cache(_MAX_OPEN)(self._open_shard)  # dropped maps close when no record is in use

    def __reduce__(self) -> tuple[type["PackedImages"], tuple[Path]]:
        return PackedImages, (self.root,)

    def __len__(self) -> int:
        return len(self._numbers["shard"])

    @functools.cached_property
    def format(self) -> str:
        """``jpeg`` or ``raw``.

        Raises:
            ProtoRKDError: the artifact is of a newer kind.
        """
        values = read_json(self.root / CONFIG_NAME)
        if values["schema_version"] > SCHEMA_VERSION:
            raise ProtoRKDError(f"{self.root} must be of version {SCHEMA_VERSION} or older; use a newer protorkd.")
        return str(values["format"])

    @functools.cached_property
    def paths(self) -> pa.LargeStringArray:
        """Paths of all images, rejected ones included, as their manifest writes them."""
        return _one_piece(read_index(self.root, ["image"])["image"])

    @functools.cached_property
    def reasons(self) -> dict[int, str]:
        """Reasons why there is no image, by row."""
        reasons = _one_piece(read_index(self.root, ["reason"])["reason"])
        return {row: reasons[row].as_py() for row in np.flatnonzero(reasons.is_valid()).tolist()}

    @functools.cached_property
    def _numbers(self) -> dict[str, NDArray[Any]]:
        table = read_index(self.root, _NUMBERS)
        return {name: table[name].to_numpy() for name in _NUMBERS}

    def find(self, paths: Sequence[str] | pa.Array) -> NDArray[np.int32]:
        """Find the rows of images.

        Shapes:
            returns: (paths,), int32, -1 for a path that is not there.
        """
        places = pc.index_in(pa.array(paths, pa.large_string()), value_set=self.paths)
        return np.asarray(places.fill_null(ABSENT), dtype=np.int32)

    def size(self, row: int) -> tuple[int, int]:
        """Return the height and width of an image; zeros where it was rejected."""
        return int(self._numbers["height"][row]), int(self._numbers["width"][row])

    def mean_bytes(self, rows: NDArray[np.int32]) -> float:
        """Return the mean length of the records of some rows; 0 for no rows."""
        return float(self._numbers["length"][rows].mean()) if len(rows) else 0.0

    def read(self, row: int) -> NDArray[np.uint8]:
        """Read an image's record, without a copy, and verify its checksum.

        Raises:
            ProtoRKDError: its bytes are not as they were written.

        Shapes:
            returns: (length,), uint8, read-only.
        """
        shard, offset, length = (int(self._numbers[name][row]) for name in ("shard", "offset", "length"))
        try:
            record = np.frombuffer(self._map(shard), np.uint8, count=length, offset=offset)
            is_whole = google_crc32c.value(record) == self._numbers["crc32c"][row]
        except (OSError, ValueError):  # gone, or cut
            is_whole = False
        if not is_whole:
            raise ProtoRKDError(
                f"{self.root / shard_path(shard)} must be as it was written; the record of {self.paths[row]} has other "
                "bytes. Run pack again with the same options and --force."
            )
        return record

    def _open_shard(self, number: int) -> mmap:
        with open_regular(self.root / shard_path(number)) as file:
            return mmap(file.fileno(), 0, access=ACCESS_READ)


def _one_piece(column: pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if column.num_chunks != 1 else column.chunk(0)
