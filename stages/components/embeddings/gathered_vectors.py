"""Gather the vectors that another tool computed into rows, in any order, within bounded memory."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from data_schemas.embedding_array import EmbeddingArray, array_name
from data_schemas.errors import ProtoRKDError
from data_schemas.vector_sources.part import VectorBlock, VectorPart
from pipeline.progress import progress
from pipeline.store.draft import Draft
from pipeline.terminal import printable_line
from stages.components.embeddings.reused_rows import ReusedRows, scratch_rows
from stages.components.embeddings.storage_dtype import store_as
from stages.components.inputs.vectors import VectorSource

Rows = NDArray[np.int64]
NULL, ZERO, ABSENT = "its vector is null", "its vector is all zeros", "no vector has its key"
_AGREE = 0.01  # length of the difference of two vectors of the same thing, as a share of theirs


@dataclass(frozen=True)
class Wanted:
    """What vectors are wanted for.

    Args:
        keys: Distinct keys; a null matches nothing.
        rows: Row of each key's vector; several keys may share one.
        num_rows: Number of rows.
        noun: What a row embeds, image or caption, for messages.

    Shapes:
        rows: (keys,), int64.
    """

    keys: pa.Array
    rows: Rows
    num_rows: int
    noun: str


@dataclass
class Gathered:
    """Vectors by row.

    Args:
        num_rows: Number of rows.
        num_unused: Number of vectors that nothing wanted.
        num_repeated: Number of vectors of rows that had one already, which agree with it.
        reasons: Why rows that a vector was found for have none.
    """

    num_rows: int
    num_unused: int = 0
    num_repeated: int = 0
    reasons: dict[int, str] = field(default_factory=dict)
    values: np.memmap[Any, Any] | None = None
    placed: Rows = field(init=False)
    """Number of each row's vector among all of the source, counted from 1; 0 where there is none."""

    def __post_init__(self) -> None:
        self.placed = np.zeros(self.num_rows, np.int64)

    @property
    def rows(self) -> ReusedRows:
        """The rows, as another run's are reused."""
        assert self.values is not None
        return ReusedRows(self.placed > 0, self.values)

    def reason(self, row: int) -> str:
        """Say why a row has no vector."""
        return self.reasons.get(row, ABSENT)


def gather_vectors(source: VectorSource, wanted: Wanted, draft: Draft, *, dtype: str, flag: str) -> Gathered:
    """Find the vector of each wanted row; the first of several that agree counts.

    Args:
        source: Vectors.
        wanted: Rows and their keys.
        draft: Draft whose state folder holds the rows.
        dtype: NumPy's name of the stored numbers.
        flag: Option that chooses the dtype, for messages.

    Raises:
        ProtoRKDError: nothing fits, a number is not finite or too large, widths differ, or two vectors of one row do.
    """
    gathered = Gathered(wanted.num_rows)
    gathering = _Gathering(source, wanted, draft, np.dtype(dtype), flag, gathered)
    for part in source.parts:
        gathering.take(part)
    if not gathered.placed.any():
        raise gathering.nothing_fits()
    return gathered


def write_vectors(draft: Draft, gathered: Gathered, *, kind: str, shard_rows: int) -> None:
    """Write gathered rows as the artifact's array; rows without vector are zeros, and shards that stand are kept.

    Raises:
        ProtoRKDError: the disk is full.
    """
    rows = gathered.rows
    array = EmbeddingArray.create(
        draft.path, rows=gathered.num_rows, dim=rows.dim, dtype=str(rows.values.dtype), shard_rows=shard_rows, kind=kind
    )
    draft.adopt(f"{array_name(kind)}/zarr.json")
    for shard in array.shards():
        if draft.is_whole(shard.path):
            continue
        here = slice(shard.start, shard.stop)
        array.write(shard, np.where(rows.is_known[here, None], rows.values[here], np.zeros((), rows.values.dtype)))
        draft.adopt(shard.path)


def check_missing(missing: Sequence[str], *, total: int, source: VectorSource, max_bad_fraction: float) -> None:
    """Refuse vectors that leave out too much.

    Args:
        missing: Names of what has no vector.
        total: Number of all.
        source: Vectors, for the message.
        max_bad_fraction: Share that may have none.

    Raises:
        ProtoRKDError: more has none.
    """
    if len(missing) > max_bad_fraction * total:
        first = "".join(f"\n  {printable_line(name)}" for name in missing[:3])
        raise ProtoRKDError(
            f"{source.flag} must have a vector for each but a share of {max_bad_fraction:g} (--max-bad-fraction); got "
            f"{len(missing):,} of {total:,} without one in {source.path}. The first:{first}\nCompute theirs, or raise "
            "--max-bad-fraction."
        )


@dataclass
class _Gathering:
    """The vectors of one part after the other, put where they are wanted."""

    source: VectorSource
    wanted: Wanted
    draft: Draft
    dtype: "np.dtype[Any]"
    flag: str
    gathered: Gathered
    num_before: int = 0  # vectors of the parts before this one

    def take(self, part: VectorPart) -> None:
        """Take the vectors of a part."""
        keys = part.keys(self.source.columns)
        rows = self._rows_of(keys, part)
        with progress(f"taking {part.path.name}", total=len(keys), unit="vectors") as advance:
            num = 0
            for block in part.blocks(self.source.columns):
                self._take(part, keys, rows, block)
                num = block.start + len(block.values)
                advance(len(block.values))
        if num != len(keys):
            raise ProtoRKDError(f"{part.path} must have a vector for each key; got {num:,} for {len(keys):,} keys.")
        self.num_before += len(keys)

    def nothing_fits(self) -> ProtoRKDError:
        """Return the error that shows a key of each side, or says that what fits holds nothing."""
        if self.gathered.reasons:
            return ProtoRKDError(
                f"{self.source.flag} must hold numbers; all of {self.source.path} that fit are null or all zeros. "
                "Compute them again."
            )
        theirs = next(
            (keys[0].as_py() for part in self.source.parts if len(keys := part.keys(self.source.columns))), ""
        )
        ours = next((key.as_py() for key in self.wanted.keys), "")
        return ProtoRKDError(
            f"{self.source.flag} must have the keys of the {self.wanted.noun}s; none of {self.source.path} fits: its "
            f"{self.source.key!r} begins with {theirs!r}, where {ours!r} is wanted. Name another column with "
            "--vector-key, or write the keys as the manifest writes them."
        )

    def _rows_of(self, keys: pa.Array, part: VectorPart) -> Rows:
        """Return the row that each vector of a part belongs to, -1 where none does."""
        if keys.type != self.wanted.keys.type:
            raise ProtoRKDError(
                f"{part.path} must have {self.wanted.keys.type} in {self.source.key!r}; got {keys.type}. Name another "
                "column with --vector-key."
            )
        found = pc.fill_null(pc.index_in(keys, value_set=self.wanted.keys, skip_nulls=True), -1).to_numpy()
        rows: Rows = self.wanted.rows[found]
        rows[found < 0] = -1
        self.gathered.num_unused += int((found < 0).sum())
        return rows

    def _take(self, part: VectorPart, keys: pa.Array, all_rows: Rows, block: VectorBlock) -> None:
        """Store the vectors of a block that are wanted, and compare those whose row has one."""
        rows = all_rows[block.start : block.start + len(block.values)]
        is_wanted = rows >= 0
        is_zero = block.is_valid & ~block.values.any(axis=1)
        for reason, chosen in ((NULL, ~block.is_valid), (ZERO, is_zero)):
            self.gathered.reasons |= dict.fromkeys(rows[is_wanted & chosen].tolist(), reason)
        places = np.flatnonzero(is_wanted & block.is_valid & ~is_zero)
        if not len(places):
            return
        stored = self._stored(part, keys, block, places)
        values = self._values(part, stored.shape[1])
        targets, numbers = rows[places], self.num_before + block.start + places + 1
        _, first = np.unique(targets, return_index=True)
        is_first = np.zeros(len(places), np.bool_)
        is_first[first] = True
        is_first &= self.gathered.placed[targets] == 0
        values[targets[is_first]] = stored[is_first]
        self.gathered.placed[targets[is_first]] = numbers[is_first]
        if not is_first.all():
            self._compare(targets[~is_first], stored[~is_first], numbers[~is_first])

    def _stored(self, part: VectorPart, keys: pa.Array, block: VectorBlock, places: Rows) -> NDArray[Any]:
        """Convert vectors of a block to the dtype in which they are stored: (places, width)."""
        values = block.values[places].astype(np.float32, copy=False)
        numbers = block.start + places
        bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
        if bad.size:
            row = int(numbers[bad[0]])
            raise ProtoRKDError(
                f"{part.path} must hold finite numbers; row {row} ({keys[row].as_py()!r}) has NaN or infinity. Compute "
                "it again, or leave the row out."
            )
        return store_as(
            values,
            self.dtype,
            model="vector",
            noun=self.wanted.noun,
            name=lambda place: repr(keys[int(numbers[place])].as_py()),
            flag=self.flag,
        )

    def _compare(self, rows: Rows, again: NDArray[Any], numbers: Rows) -> None:
        """Refuse vectors of a row that has another one."""
        assert self.gathered.values is not None
        known = self.gathered.values[rows].astype(np.float32)
        distance = np.linalg.norm(again.astype(np.float32) - known, axis=1)
        differing = np.flatnonzero(distance > _AGREE * np.linalg.norm(known, axis=1))
        if differing.size:
            row, number = int(rows[differing[0]]), int(numbers[differing[0]])
            key = self.wanted.keys[int(np.flatnonzero(self.wanted.rows == row)[0])].as_py()
            raise ProtoRKDError(
                f"{self.source.flag} must have one vector for each {self.wanted.noun}; got two that differ for "
                f"{key!r}: {self._place(int(self.gathered.placed[row]))} and {self._place(number)}. Leave one out."
            )
        self.gathered.num_repeated += len(rows)

    def _place(self, number: int) -> str:
        """Name the part and row of a vector by its number among all."""
        row = number - 1
        for part in self.source.parts:
            length = len(part.keys(self.source.columns))
            if row < length:
                return f"row {row} of {part.path}"
            row -= length
        raise AssertionError(number)

    def _values(self, part: VectorPart, width: int) -> NDArray[Any]:
        if self.gathered.values is None:
            self.gathered.values = scratch_rows(self.draft, self.wanted.num_rows, width, self.dtype)
        if (wanted := self.gathered.values.shape[1]) != width:
            raise ProtoRKDError(
                f"{self.source.flag} must be of one width; got {width} in {part.path}, and {wanted} before it."
            )
        return self.gathered.values
