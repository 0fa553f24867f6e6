"""Embed distinct images by the student, shard by shard."""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from data_schemas.calibration import Calibration
from data_schemas.embedding_array import IMAGE_KIND
from data_schemas.images.embedded_images import CONFIG_NAME, EmbedConfig
from data_schemas.later_fields import as_plain
from data_schemas.pair_index import write_rejected
from pipeline.log import log
from pipeline.progress import progress
from pipeline.stage import Context, Input, Result
from pipeline.store.draft import Draft
from pipeline.store.store import Artifact, Store
from stages.components.calibration.calibration import CalibrationRuntime, CalibrationSource, make_calibration
from stages.components.calibration.extended_vectors import extend_images
from stages.components.compute.device import choose_device, describe_work
from stages.components.compute.precision import choose_precision
from stages.components.embeddings.distinct_images import Distinct, read_keys
from stages.components.embeddings.image_rows import Compute, ImageRows, RowLayout, begin_array
from stages.components.embeddings.reused_rows import find_known_rows
from stages.components.inputs.image_source import Images
from stages.components.loading.view_images import ViewImages
from stages.components.student.checkpoints import StudentWeights
from stages.components.student.embedder import ImageEmbedder

if TYPE_CHECKING:
    from stages.embed.options import EmbedParams, EmbedRuntime

_STAGE = "embed"


def embed_images(
    params: "EmbedParams",
    runtime: "EmbedRuntime",
    *,
    student: StudentWeights,
    images: Images,
    calibration: Input[CalibrationSource] | None,
    draft: Draft,
    context: Context,
) -> Result:
    """Embed images, each once, into a draft; shards that are already complete are kept.

    Reads:  earlier artifacts of the same student, precision and dtype, unless the run is forced.
    Writes: embeddings of shape (distinct images, dim), and the row of each image.

    Raises:
        ProtoRKDError: too many images cannot be read, an embedding is not finite, or the disk is full.
    """
    distinct = Distinct.of(images.images, images.digests(context.file_digests))
    device = choose_device(runtime.device)
    precision = choose_precision(params.precision, device)
    log.info("embed: on %s", describe_work(device, precision=precision))
    finish = Finish.of(params, calibration, runtime, context)
    describe_embeddings(params, student, precision=precision, draft=draft)
    known = None
    if not context.force:
        sources = _sources(context.store, student, params, precision, calibration)
        known = find_known_rows(
            distinct.keys, draft, sources=sources, context=context, read_keys=read_keys, kind=IMAGE_KIND
        )
    layout = RowLayout(
        kind=IMAGE_KIND,
        dim=student.config.embedding_dim + finish.num_added,
        dtype=params.embedding_dtype,
        shard_rows=params.shard_rows,
        model="student",
        flag="--embedding-dtype",
    )
    opened = ViewImages(distinct.images, student.config.preprocessing)
    array = begin_array(draft, distinct, layout)
    rows = ImageRows(distinct, draft, array, layout=layout, reading=runtime, opened=opened, known=known)

    def load() -> Compute:
        embedder = ImageEmbedder.load(student, device=device, precision=precision, store=context.store)
        return lambda batches: ((batch, finish(embeddings)) for batch, _, embeddings in embedder.over(batches))

    missing = rows.find_missing()
    with progress("embedding images", total=array.rows, unit="images", done=rows.num_resumed) as advance:
        rows.write(missing, load, pin_memory=device.type == "cuda", advance=advance)
    rejections = rows.rejections()
    write_rejected(draft.path, rejections)
    distinct.write(draft.path, without={entry.row for entry in rejections})
    return Result(
        counts={
            "images": len(distinct.rows) - len(rejections),
            "distinct_images": len(distinct.firsts) - len(rows.reasons),
            "rejected_images": len(rejections),
            "rejected_reasons": dict(Counter(entry.reason for entry in rejections)),
            "embedded_images": rows.num_computed,
            "reused_images": rows.num_reused,
            "resumed_images": rows.num_resumed,
        },
        uses=(*(() if student.artifact is None else (student.artifact.record.digest,)), *finish.uses),
        environment={"device": device.type, "precision": precision},
    )


@dataclass(frozen=True)
class Finish:
    """What is done to embeddings before they are stored: scaled to unit length, and calibrated.

    Args:
        normalize: Whether they are scaled to unit length, though they are not calibrated.
        calibration: Calibration that is written into them; None for none.
        uses: Digest of its artifact.
    """

    normalize: bool
    calibration: Calibration | None = None
    uses: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        params: "EmbedParams",
        source: Input[CalibrationSource] | None,
        runtime: "EmbedRuntime",
        context: Context,
    ) -> "Finish":
        """Find or make the calibration that is asked for.

        Raises:
            ProtoRKDError: what it is computed from is gone.
        """
        if source is None:
            return cls(params.normalize)
        where = CalibrationRuntime(runtime.device, runtime.workers)
        calibration, digest = make_calibration(source.value, where, context)
        return cls(params.normalize, calibration, (digest,))

    @property
    def num_added(self) -> int:
        """How many numbers a row gains."""
        return int(self.calibration is not None)

    def __call__(self, embeddings: Tensor) -> Tensor:
        """Finish a batch.

        Shapes:
            embeddings: (batch, dim), float32, on the CPU.
            returns: (batch, dim), or (batch, dim + 1) where they are calibrated.
        """
        if self.calibration is not None:
            return torch.from_numpy(extend_images(unit(embeddings).numpy(), self.calibration))
        return unit(embeddings) if self.normalize else embeddings


def describe_embeddings(params: "EmbedParams", student: StudentWeights, *, precision: str, draft: Draft) -> None:
    """Write what embeds the images into a draft."""
    EmbedConfig(
        as_plain(student.config),
        student.sha256,
        student.name,
        precision,
        params.normalize,
        calibration=params.calibrate,
    ).write(draft.path)
    draft.adopt(CONFIG_NAME)


def unit(embeddings: Tensor) -> Tensor:
    """Scale each row to unit length; rows of zeros stay."""
    lengths = np.linalg.norm(embeddings.numpy(), axis=1, keepdims=True)
    return embeddings / torch.from_numpy(np.maximum(lengths, np.finfo(np.float32).tiny))


def _sources(
    store: Store,
    student: StudentWeights,
    params: "EmbedParams",
    precision: str,
    calibration: Input[CalibrationSource] | None,
) -> list[Artifact]:
    """Return the artifacts whose rows equal those of this run, the newest first."""
    alike = ("embedding_dtype", "normalize")
    wanted = None if calibration is None else calibration.digest
    return [
        artifact
        for artifact in reversed(store.artifacts(_STAGE))
        if artifact.record.inputs["student"].digest == student.identity
        and getattr(artifact.record.inputs.get("calibration"), "digest", None) == wanted
        and artifact.record.environment.get("precision") == precision
        and all(artifact.record.params[name] == getattr(params, name) for name in alike)
    ]
