"""Write the rows of distinct images: read, put through a network and stored, shard by shard.

An unreadable image keeps its rows, of zeros, so that a shard depends only on its own images; batches do not cross
shards, so a resumed run writes the same bytes as an uninterrupted one.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from data_schemas.embedding_array import EmbeddingArray, Shard, array_name
from data_schemas.manifest import Rejection
from pipeline.progress import progress
from pipeline.store.draft import Draft
from pipeline.store.shards import Facts
from stages.components.embeddings.distinct_images import Distinct
from stages.components.embeddings.reused_rows import ReusedRows
from stages.components.embeddings.storage_dtype import store_as
from stages.components.images.rejections import check_rejected
from stages.components.loading.batch import Batch
from stages.components.loading.image_loader import ImageLoader
from stages.components.loading.num_workers import num_workers
from stages.components.loading.reading_options import ReadingOptions
from stages.components.loading.view_images import PLAIN, View, ViewImages

Rows = NDArray[np.int64]
Compute = Callable[[Iterable[Batch]], Iterator[tuple[Batch, Tensor]]]
"""Yields each batch, and what the network makes of its images, (read, dim), float32, on the CPU."""


@dataclass(frozen=True)
class RowLayout:
    """How the rows of images are stored.

    Args:
        kind: Kind of the array.
        dim: Width of a row.
        dtype: NumPy's name of the stored numbers.
        shard_rows: Rows in one shard file.
        model: Network that computes the rows, for messages: student or backbone.
        flag: Option that chooses the dtype, for messages.
        views: Rows of each image.
    """

    kind: str
    dim: int
    dtype: str
    shard_rows: int
    model: str
    flag: str
    views: int = 1


class ImageRows:
    """The rows of a draft's array, with the reasons of rejected images.

    Args:
        distinct: Distinct images.
        draft: Draft of the artifact.
        layout: How rows are stored.
        reading: How images are read.
        opened: Dataset of the images' views.
        seeds: Returns the seed of each of some rows, or `PLAIN`; None where all are plain.
        known: Rows that need not be computed, or None.
    """

    def __init__(
        self,
        distinct: Distinct,
        draft: Draft,
        *,
        layout: RowLayout,
        reading: ReadingOptions,
        opened: ViewImages,
        seeds: Callable[[Rows], Rows] | None = None,
        known: ReusedRows | None = None,
    ) -> None:
        self._distinct, self._layout, self._reading = distinct, layout, reading
        self.opened, self._seeds, self._known = opened, seeds, known
        self._array = EmbeddingArray.create(
            draft.path,
            rows=len(distinct.firsts) * layout.views,
            dim=layout.dim,
            dtype=layout.dtype,
            shard_rows=layout.shard_rows,
            kind=layout.kind,
        )
        draft.adopt(f"{array_name(layout.kind)}/zarr.json")
        self._shards = list(self._array.shards())
        self._queue = draft.shards([(shard.path,) for shard in self._shards], self._look)
        self.reasons: dict[int, str] = {}
        """Why a distinct image could not be read, by its row among the distinct ones."""
        self._note(self._queue.facts.values())

    @property
    def num_computed(self) -> int:
        """Number of rows that the network computed, in all processes that shared the work."""
        return sum(facts.get("computed", 0) for facts in self._queue.facts.values())

    @property
    def num_resumed(self) -> int:
        """Number of rows in shards that an earlier run left."""
        return sum(facts.get("resumed", 0) for facts in self._queue.facts.values())

    @property
    def num_reused(self) -> int:
        """Number of rows taken from elsewhere."""
        return self._array.rows - self.num_resumed - self.num_computed

    @property
    def measured(self) -> dict[str, float]:
        """What the first process that loaded the network measured of it, for one that loaded none."""
        return next((dict(facts["measured"]) for facts in self._queue.facts.values() if facts.get("measured")), {})

    def write_missing(
        self,
        load: Callable[[Sequence[View]], Compute],
        *,
        pin_memory: bool,
        measured: Callable[[], Mapping[str, float]] = dict,
    ) -> None:
        """Write every shard that is not complete yet.

        Args:
            load: Loads the network, given the views that it has to compute first; called only if there are any.
            pin_memory: Whether the network is on a GPU.
            measured: Returns what was measured of the network when it was loaded.

        Raises:
            ProtoRKDError: too many images cannot be read, a number cannot be stored, or the disk is full.
        """
        compute: Compute | None = None
        stand = self.num_resumed
        with progress("embedding images", total=self._array.rows, unit="images", done=stand) as advance:
            for numbers in self._queue.rounds(at_most=1):
                missing = list(numbers)
                to_read = [self._unknown(self._shards[number]) for number in missing]
                computed: Iterator[tuple[Batch, Tensor]] = iter(())
                if any(map(len, to_read)):
                    compute = compute or load(self._sample(to_read))
                    computed = compute(self._read(to_read, pin_memory=pin_memory))
                for number, rows in zip(missing, to_read, strict=True):
                    self._compute(number, rows, computed, advance=advance, measured=measured())
        self._note(self._queue.facts.values())
        if self.reasons:
            check_rejected(self.rejections(), self._distinct.images, max_bad_fraction=self._reading.max_bad_fraction)

    def _compute(
        self,
        number: int,
        rows: Rows,
        computed: Iterator[tuple[Batch, Tensor]],
        *,
        advance: Callable[[int], None],
        measured: Mapping[str, float],
    ) -> None:
        """Take the batches of a shard, and write it."""
        shard = self._shards[number]
        reasons: dict[int, str] = {}
        values = np.zeros((shard.stop - shard.start, self._array.dim), np.float32)
        for batch, results in islice(computed, -(-len(rows) // self._reading.batch_size)):
            reasons |= {row // self._layout.views: reason for row, reason in batch.rejected.items()}
            if batch.rejected:
                self.reasons |= reasons
                check_rejected(
                    self.rejections(), self._distinct.images, max_bad_fraction=self._reading.max_bad_fraction
                )
            values[batch.rows.numpy() - shard.start] = results.numpy()
            advance(len(batch.rows) + len(batch.rejected))
        self._write(shard, values)
        facts = {"computed": len(rows), "reasons": {str(row): reason for row, reason in reasons.items()}}
        self._queue.finish(number, facts | ({"measured": dict(measured)} if measured else {}))
        advance(len(values) - len(rows))

    def rejections(self) -> list[Rejection]:
        """Return the rejection of every image whose rows could not be computed."""
        numbers = np.flatnonzero(np.isin(self._distinct.rows, list(self.reasons))).tolist()
        paths, rows = self._distinct.images.paths, self._distinct.rows
        reasons = [self.reasons[int(rows[number])] for number in numbers]
        return [Rejection(number, why, paths[number]) for number, why in zip(numbers, reasons, strict=True)]

    def _look(self, number: int) -> Facts | None:
        """Look at a shard that is there; images of its rows of zeros are opened again, to note their reasons."""
        values = self._array.read_sound(self._shards[number])
        if values is None:
            return None
        reasons = {}
        for view in self._views(np.flatnonzero(~values.any(axis=1)) + self._shards[number].start):
            row, opened = self.opened[view]
            if isinstance(opened, str):
                reasons[str(row // self._layout.views)] = opened
        return {"resumed": len(values), "reasons": reasons}

    def _note(self, facts: Iterable[Facts]) -> None:
        for each in facts:
            self.reasons |= {int(row): reason for row, reason in each["reasons"].items()}

    def _unknown(self, shard: Shard) -> Rows:
        """Return the rows of a shard that have to be computed."""
        rows = np.arange(shard.start, shard.stop)
        return rows if self._known is None else rows[~self._known.is_known[rows]]

    def _views(self, rows: Rows) -> list[View]:
        numbers = self._distinct.firsts[rows // self._layout.views]
        seeds = np.full(len(rows), PLAIN) if self._seeds is None else self._seeds(rows)
        return list(zip(rows.tolist(), numbers.tolist(), seeds.tolist(), strict=True))

    def _sample(self, rows: Sequence[Rows]) -> list[View]:
        """Draw views evenly from those that have to be computed: one in a hundred, from 16 to 256."""
        every = np.concatenate([np.empty(0, np.int64), *rows])
        size = min(max(len(every) // 100, 16), 256, len(every))
        return self._views(every[np.linspace(0, len(every) - 1, size).astype(np.int64)]) if size else []

    def _read(self, rows: Sequence[Rows], *, pin_memory: bool) -> ImageLoader:
        """Read images in batches that do not cross shards, so that each shard comes out as if it were alone."""
        size = self._reading.batch_size
        parts = [some[start : start + size] for some in rows for start in range(0, len(some), size)]
        return ImageLoader(
            self.opened,
            workers=min(num_workers(self._reading.workers), len(parts)),
            pin_memory=pin_memory,
            batches=_Batches(self._views, parts),
            batch_bytes=max(map(len, parts), default=0) * self.opened.image_bytes,
        )

    def _write(self, shard: Shard, values: NDArray[np.float32]) -> None:
        """Merge known and computed rows, and write them to disk."""
        stored = store_as(
            values,
            self._array.dtype,
            model=self._layout.model,
            noun="image",
            name=lambda place: repr(self._distinct.path((shard.start + place) // self._layout.views)),
            flag=self._layout.flag,
        )
        if self._known is not None:
            is_known = self._known.is_known[shard.start : shard.stop]
            stored[is_known] = self._known.values[shard.start : shard.stop][is_known]
        self._array.write(shard, stored)


class _Batches:
    """Views of each batch, made when it is asked for."""

    def __init__(self, views: Callable[[Rows], list[View]], parts: Sequence[Rows]) -> None:
        self._views, self._parts = views, parts

    def __len__(self) -> int:
        return len(self._parts)

    def __iter__(self) -> Iterator[list[View]]:
        return map(self._views, self._parts)
