"""Embed distinct images by the student, shard by shard."""

from collections import Counter
from collections.abc import Sequence
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from data_schemas.embedded_images import CONFIG_NAME, EmbedConfig
from data_schemas.embedding_array import ARRAY_NAME, IMAGE_KIND, EmbeddingArray, Shard
from data_schemas.later_fields import as_plain
from data_schemas.manifest import Rejection
from data_schemas.pair_index import write_rejected
from pipeline.log import log
from pipeline.progress import progress
from pipeline.stage import Context, Result
from pipeline.store.draft import Draft
from pipeline.store.store import Artifact, Store
from stages.components.compute.device import choose_device, describe_work
from stages.components.compute.precision import choose_precision
from stages.components.embeddings.reused_rows import ReusedRows, find_known_rows
from stages.components.embeddings.storage_dtype import store_as
from stages.components.images.rejections import check_rejected
from stages.components.images.transforms import EvalTransform
from stages.components.loading.batch import Batch, EvalImages
from stages.components.loading.image_loader import ImageLoader, batches_of
from stages.components.loading.num_workers import num_workers
from stages.components.student.checkpoints import StudentWeights
from stages.components.student.embedder import ImageEmbedder
from stages.embed.distinct_images import Distinct, read_keys

if TYPE_CHECKING:
    from stages.embed.options import EmbedParams, EmbedRuntime, Images

_STAGE = "embed"


def embed_images(
    params: "EmbedParams",
    runtime: "EmbedRuntime",
    *,
    student: StudentWeights,
    images: "Images",
    draft: Draft,
    context: Context,
) -> Result:
    """Embed images, each once, into a draft; shards that are already complete are kept.

    An unreadable image keeps its row, of zeros, so that a shard depends only on its own images.

    Reads:  earlier artifacts of the same student, precision and dtype, unless the run is forced.
    Writes: embeddings of shape (distinct images, dim), and the row of each image.

    Raises:
        ProtoRKDError: too many images cannot be read, an embedding is not finite, or the disk is full.
    """
    numbers = range(len(images.images.paths))
    digests: Sequence[str | None] = [None] * len(numbers)
    if images.by_content:
        digests = images.images.digests(numbers, context.file_digests)
    distinct = Distinct.of(images.images, digests)
    device = choose_device(runtime.device)
    precision = choose_precision(params.precision, device)
    log.info("embed: on %s", describe_work(device, precision=precision))
    EmbedConfig(as_plain(student.config), student.sha256, student.name, precision, params.normalize).write(draft.path)
    draft.adopt(CONFIG_NAME)
    known = None
    if not context.force:
        sources = _sources(context.store, student, params, precision)
        known = find_known_rows(
            distinct.keys, draft, sources=sources, context=context, read_keys=read_keys, kind=IMAGE_KIND
        )
    work = _Work(params, runtime, student=student, distinct=distinct, known=known, draft=draft, store=context.store)
    work.embed_missing(device, precision)
    rejections = work.rejections()
    write_rejected(draft.path, rejections)
    distinct.write(draft.path, without={entry.row for entry in rejections})
    return Result(
        counts={
            "images": len(numbers) - len(rejections),
            "distinct_images": len(distinct.firsts) - len(work.reasons),
            "rejected_images": len(rejections),
            "rejected_reasons": dict(Counter(entry.reason for entry in rejections)),
            "embedded_images": work.num_embedded,
            "reused_images": len(distinct.firsts) - work.num_resumed - work.num_embedded,
            "resumed_images": work.num_resumed,
        },
        uses=() if student.artifact is None else (student.artifact.record.digest,),
        environment={"device": device.type, "precision": precision},
    )


class _Work:
    """The work on a draft's shards, with the reasons of rejected images.

    Args:
        params: Parameters of the stage.
        runtime: Runtime options of the stage.
        student: Weights of the student that embeds.
        distinct: Distinct images to embed.
        known: Rows reused from earlier artifacts, or None.
        draft: Draft of the artifact.
        store: Store that a frozen backbone is looked for in first.
    """

    def __init__(
        self,
        params: "EmbedParams",
        runtime: "EmbedRuntime",
        *,
        student: StudentWeights,
        distinct: Distinct,
        known: ReusedRows | None,
        draft: Draft,
        store: Store,
    ) -> None:
        self._params, self._runtime, self._student, self._store = params, runtime, student, store
        self._distinct, self._known, self._draft = distinct, known, draft
        self._opened = EvalImages(distinct.images, EvalTransform(student.config.preprocessing))
        self._embeddings = EmbeddingArray.create(
            draft.path,
            rows=len(distinct.firsts),
            dim=student.config.embedding_dim,
            dtype=params.embedding_dtype,
            shard_rows=params.shard_rows,
            kind=IMAGE_KIND,
        )
        draft.adopt(f"{ARRAY_NAME}/zarr.json")
        self.reasons: dict[int, str] = {}
        self.num_embedded, self.num_resumed = 0, 0

    def embed_missing(self, device: torch.device, precision: str) -> None:
        """Write every shard that is not complete yet."""
        missing = [shard for shard in self._embeddings.shards() if not self._stands(shard)]
        to_read = [self._unknown(shard) for shard in missing]
        total = len(self._distinct.firsts)
        self.num_embedded = sum(map(len, to_read))
        self.num_resumed = total - sum(shard.stop - shard.start for shard in missing)
        embedder = None
        if self.num_embedded:
            embedder = ImageEmbedder.load(self._student, device=device, precision=precision, store=self._store)
        with (
            progress("embedding images", total=total, unit="images", done=self.num_resumed) as advance,
        ):
            batches = self._read(to_read, pin_memory=device.type == "cuda")
            embedded = iter(()) if embedder is None else embedder.over(batches)
            for shard, rows in zip(missing, to_read, strict=True):
                values = np.zeros((shard.stop - shard.start, self._embeddings.dim), np.float32)
                for batch, _, embeddings in islice(embedded, -(-len(rows) // self._runtime.batch_size)):
                    self._note(batch)
                    values[self._distinct.rows[batch.rows.numpy()] - shard.start] = embeddings.numpy()
                    advance(len(batch.rows) + len(batch.rejected))
                self._write(shard, values)
                advance(len(values) - len(rows))

    def rejections(self) -> list[Rejection]:
        """Return the rejection of every image whose row could not be read."""
        numbers = np.flatnonzero(np.isin(self._distinct.rows, list(self.reasons))).tolist()
        paths, rows = self._distinct.images.paths, self._distinct.rows
        reasons = [self.reasons[int(rows[number])] for number in numbers]
        return [Rejection(number, why, paths[number]) for number, why in zip(numbers, reasons, strict=True)]

    def _stands(self, shard: Shard) -> bool:
        """Return whether a shard is complete; images of its rows of zeros are opened again, to note their reasons."""
        values = self._embeddings.read_sound(shard) if self._draft.is_whole(shard.path) else None
        if values is None:
            return False
        for row in np.flatnonzero(~values.any(axis=1)) + shard.start:
            _, opened = self._opened[int(self._distinct.firsts[row])]
            if isinstance(opened, str):
                self.reasons[int(row)] = opened
        return True

    def _unknown(self, shard: Shard) -> NDArray[np.int64]:
        """Return the rows of a shard that have to be embedded."""
        rows = np.arange(shard.start, shard.stop)
        return rows if self._known is None else rows[~self._known.is_known[rows]]

    def _read(self, rows: Sequence[NDArray[np.int64]], *, pin_memory: bool) -> ImageLoader:
        """Read images in batches that do not cross shards, so that each shard comes out as if it were alone."""
        numbers = [self._distinct.firsts[some].tolist() for some in rows]
        batches = [batch for some in numbers for batch in batches_of(some, self._runtime.batch_size)]
        workers = min(num_workers(self._runtime.workers), len(batches))
        batch_bytes = max(map(len, batches), default=0) * self._opened.image_bytes
        return ImageLoader(
            self._opened, workers=workers, pin_memory=pin_memory, batches=batches, batch_bytes=batch_bytes
        )

    def _note(self, batch: Batch) -> None:
        """Note why images could not be read, and raise an error if they are too many."""
        self.reasons |= {int(self._distinct.rows[number]): reason for number, reason in batch.rejected.items()}
        if batch.rejected:
            check_rejected(self.rejections(), self._distinct.images, max_bad_fraction=self._runtime.max_bad_fraction)

    def _write(self, shard: Shard, values: NDArray[np.float32]) -> None:
        """Merge known and embedded rows, and write them to disk and the journal."""
        if self._params.normalize:
            values = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        stored = store_as(
            values,
            self._embeddings.dtype,
            model="student",
            noun="image",
            name=lambda place: repr(self._distinct.path(shard.start + place)),
        )
        if self._known is not None:
            is_known = self._known.is_known[shard.start : shard.stop]
            stored[is_known] = self._known.values[shard.start : shard.stop][is_known]
        self._embeddings.write(shard, stored)
        self._draft.adopt(shard.path)


def _sources(store: Store, student: StudentWeights, params: "EmbedParams", precision: str) -> list[Artifact]:
    """Return the artifacts whose rows equal those of this run, the newest first."""
    alike = ("embedding_dtype", "normalize")
    return [
        artifact
        for artifact in reversed(store.artifacts(_STAGE))
        if artifact.record.inputs["student"].digest == student.identity
        and artifact.record.environment.get("precision") == precision
        and all(artifact.record.params[name] == getattr(params, name) for name in alike)
    ]
