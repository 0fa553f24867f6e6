"""What the embed stage does: distinct pictures through the student, into shards that are each whole."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from data_schemas.embedded_pictures import CONFIG_NAME, EmbedConfig, read_images, write_images
from data_schemas.manifest import Rejection
from data_schemas.pair_index import write_rejected
from data_schemas.teacher_embeddings import ARRAY_NAME, PICTURE_KIND, Shard, TeacherEmbeddings
from pipeline.draft import Draft
from pipeline.progress import progress
from pipeline.stage import Context, Result
from pipeline.store import Artifact, Store
from stages.checkpoints import LoadedStudent
from stages.device import choose_device
from stages.image_batches import Batch, EvalPictures, worker_errors
from stages.image_loading import batches_of, image_loader
from stages.image_set import ImageSet
from stages.known_rows import KnownRows, find_known_rows
from stages.picture_embedder import PictureEmbedder
from stages.precision import choose_precision
from stages.rejected_pictures import check_rejected
from stages.stored_numbers import store_as
from stages.transforms import EvalTransform
from stages.workers import num_workers

if TYPE_CHECKING:
    from stages.embed.stage import EmbedParams, EmbedRuntime, Pictures

_STAGE = "embed"


@dataclass(frozen=True)
class Distinct:
    """Pictures, and which of them are the same.

    Args:
        images: the pictures by number, each path once.
        digests: of their files, by number; None where it is not known, or there is no file.

    Shapes:
        rows: (pictures,), int64: the row of each in the array; equal pictures share one.
        firsts: (rows,), int64: number of the first picture of each row.
    """

    images: ImageSet
    digests: Sequence[str | None]
    rows: NDArray[np.int64]
    firsts: NDArray[np.int64]

    @classmethod
    def of(cls, images: ImageSet, digests: Sequence[str | None]) -> "Distinct":
        """Number the distinct pictures in order of first appearance."""
        # A path cannot pass for a digest: it begins with a NUL, which no path may hold.
        keys = [digest or f"\0{number}" for number, digest in enumerate(digests)]
        rows = pa.array(keys, pa.large_string()).dictionary_encode().indices.to_numpy().astype(np.int64)
        return cls(images, digests, rows, np.unique(rows, return_index=True)[1])

    @property
    def keys(self) -> pa.Array:
        """Digest of each row, in row order."""
        return pa.array([self.digests[number] for number in self.firsts], pa.large_string())

    def path(self, row: int) -> str:
        """Of the first picture of a row."""
        return self.images.paths[int(self.firsts[row])]


def embed_pictures(
    params: "EmbedParams",
    runtime: "EmbedRuntime",
    *,
    student: LoadedStudent,
    pictures: "Pictures",
    draft: Draft,
    context: Context,
) -> Result:
    """Embed pictures, each once, into a draft; shards that stand whole are kept.

    A picture that cannot be read keeps its row, of zeros, so that a shard is a function of its own pictures alone.

    Reads:  earlier artifacts of the same student, precision and dtype, unless the run is forced.
    Writes: embeddings of shape (distinct pictures, dim), and which picture has which row.

    Raises:
        ProtoRKDError: too many pictures cannot be read, an embedding is not finite, or the disk is full.
    """
    numbers = range(len(pictures.images.paths))
    digests: Sequence[str | None] = [None] * len(numbers)
    if pictures.by_content:
        digests = pictures.images.digests(numbers, context.file_digests)
    distinct = Distinct.of(pictures.images, digests)
    device = choose_device(runtime.device)
    precision = choose_precision(params.precision, device)
    config = EmbedConfig(asdict(student.config), student.sha256, student.name, precision, params.normalize)
    config.write(draft.path)
    draft.adopt(CONFIG_NAME)
    embeddings = TeacherEmbeddings.create(
        draft.path,
        rows=len(distinct.firsts),
        dim=student.config.embedding_dim,
        dtype=params.embedding_dtype,
        shard_rows=params.shard_rows,
        kind=PICTURE_KIND,
    )
    draft.adopt(f"{ARRAY_NAME}/zarr.json")
    known = None
    if not context.force:
        sources = _sources(context.store, student, params, precision)
        known = find_known_rows(distinct.keys, draft, sources=sources, read_keys=_read_keys, kind=PICTURE_KIND)
    work = _Work(params, runtime, distinct, EvalPictures(distinct.images, EvalTransform(student.config.preprocessing)))
    missing = list(work.take_over(embeddings, draft))
    to_read = {shard.start: _unknown(shard, known) for shard in missing}
    num_embedded = sum(map(len, to_read.values()))
    embedder = PictureEmbedder(student, device=device, precision=precision) if num_embedded else None
    resumed = len(distinct.firsts) - sum(shard.stop - shard.start for shard in missing)
    with (
        worker_errors(),
        progress("embedding pictures", total=len(distinct.firsts), unit="pictures", done=resumed) as advance,
    ):
        batches = work.read(list(to_read.values()), pin_memory=device.type == "cuda")
        for shard in missing:
            values = np.zeros((shard.stop - shard.start, embeddings.dim), np.float32)
            for batch in islice(batches, -(-len(to_read[shard.start]) // runtime.batch_size)):
                work.note(batch)
                if len(batch.rows):
                    assert embedder is not None
                    rows = distinct.rows[batch.rows.numpy()] - shard.start
                    values[rows] = embedder(batch.images)[1].cpu().numpy()
                advance(len(batch.rows) + len(batch.rejected))
            work.write(shard, values, known, embeddings, draft)
            advance(len(values) - len(to_read[shard.start]))
    rejections = work.rejections()
    write_rejected(draft.path, rejections)
    _write_images(draft.path, distinct, without={entry.row for entry in rejections})
    return Result(
        counts={
            "images": len(numbers) - len(rejections),
            "distinct_images": len(distinct.firsts) - len(work.reasons),
            "rejected_images": len(rejections),
            "rejected_reasons": dict(Counter(entry.reason for entry in rejections)),
            "embedded_images": num_embedded,
            "reused_images": len(distinct.firsts) - resumed - num_embedded,
            "resumed_images": resumed,
        },
        uses=() if student.artifact is None else (student.artifact.record.digest,),
        environment={"device": device.type, "precision": precision},
    )


class _Work:
    """What of the pictures is read, and why some cannot be."""

    def __init__(
        self, params: "EmbedParams", runtime: "EmbedRuntime", distinct: Distinct, opened: EvalPictures
    ) -> None:
        self._params, self._runtime, self._distinct, self._opened = params, runtime, distinct, opened
        self.reasons: dict[int, str] = {}

    def take_over(self, embeddings: TeacherEmbeddings, draft: Draft) -> Iterator[Shard]:
        """Yield the shards that are missing; of the others, the rows of zeros tell which pictures to ask again."""
        for shard in embeddings.shards():
            if not draft.is_whole(shard.path):
                yield shard
                continue
            for row in np.flatnonzero(~embeddings.read(shard.start, shard.stop).any(axis=1)) + shard.start:
                _, found = self._opened[int(self._distinct.firsts[row])]
                if isinstance(found, str):
                    self.reasons[int(row)] = found

    def read(self, rows: Sequence[NDArray[np.int64]], *, pin_memory: bool) -> "Iterator[Batch]":
        """Read pictures in batches, which no shard shares with another: each comes out as if it were alone."""
        numbers = [self._distinct.firsts[some].tolist() for some in rows]
        batches = [batch for some in numbers for batch in batches_of(some, self._runtime.batch_size)]
        workers = min(num_workers(self._runtime.workers), len(batches))
        return iter(image_loader(self._opened, workers=workers, pin_memory=pin_memory, batches=batches))

    def note(self, batch: "Batch") -> None:
        """Keep why pictures could not be read, and stop where they are too many."""
        self.reasons |= {int(self._distinct.rows[number]): reason for number, reason in batch.rejected.items()}
        if batch.rejected:
            check_rejected(self.rejections(), self._distinct.images, max_bad_fraction=self._runtime.max_bad_fraction)

    def write(
        self,
        shard: Shard,
        values: NDArray[np.float32],
        known: KnownRows | None,
        embeddings: TeacherEmbeddings,
        draft: Draft,
    ) -> None:
        """Put the rows that are known and those that were embedded together, on disk and in the journal."""
        if self._params.normalize:
            values = values / np.maximum(np.linalg.norm(values, axis=1, keepdims=True), np.finfo(np.float32).tiny)
        stored = store_as(
            values,
            embeddings.dtype,
            model="student",
            noun="picture",
            name=lambda place: repr(self._distinct.path(shard.start + place)),
        )
        if known is not None:
            is_known = known.is_known[shard.start : shard.stop]
            stored[is_known] = known.values[shard.start : shard.stop][is_known]
        embeddings.write(shard, stored)
        draft.adopt(shard.path)

    def rejections(self) -> list[Rejection]:
        """Every picture of a row that could not be read."""
        numbers = np.flatnonzero(np.isin(self._distinct.rows, list(self.reasons))).tolist()
        paths, rows = self._distinct.images.paths, self._distinct.rows
        return [
            Rejection(row=number, reason=self.reasons[int(rows[number])], value=paths[number]) for number in numbers
        ]


def _unknown(shard: Shard, known: KnownRows | None) -> NDArray[np.int64]:
    rows = np.arange(shard.start, shard.stop)
    return rows if known is None else rows[~known.is_known[rows]]


def _write_images(root: Path, distinct: Distinct, *, without: set[int]) -> None:
    numbers = [number for number in range(len(distinct.rows)) if number not in without]
    columns: dict[str, Any] = {
        "image_row": distinct.rows[numbers],
        "image": pa.array([distinct.images.paths[number] for number in numbers], pa.large_string()),
        "sha256": pa.array([distinct.digests[number] for number in numbers], pa.large_string()),
    }
    write_images(root, pa.table(columns))


def _sources(store: Store, student: LoadedStudent, params: "EmbedParams", precision: str) -> list[Artifact]:
    """Artifacts whose rows are what this run would make, the newest first."""
    alike = ("embedding_dtype", "normalize")
    return [
        artifact
        for artifact in reversed(store.artifacts(_STAGE))
        if artifact.record.inputs["student"].digest == student.identity
        and artifact.record.environment.get("precision") == precision
        and all(artifact.record.params[name] == getattr(params, name) for name in alike)
    ]


def _read_keys(root: Path) -> pa.Array:
    """Digest of each row of an artifact, in row order; none where it is not known."""
    table = read_images(root)
    rows = table["image_row"].to_numpy()
    keys = np.full(int(rows.max()) + 1 if len(rows) else 0, None, dtype=object)
    keys[rows] = table["sha256"].to_numpy(zero_copy_only=False)
    return pa.array(keys, pa.large_string())
