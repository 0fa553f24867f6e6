"""Embed distinct images by the student, shard by shard."""

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from data_schemas.embedding_array import IMAGE_KIND
from data_schemas.images.embedded_images import CONFIG_NAME, EmbedConfig
from data_schemas.later_fields import as_plain
from data_schemas.pair_index import write_rejected
from pipeline.log import log
from pipeline.progress import progress
from pipeline.stage import Context, Result
from pipeline.store.draft import Draft
from pipeline.store.store import Artifact, Store
from stages.components.compute.device import choose_device, describe_work
from stages.components.compute.precision import choose_precision
from stages.components.embeddings.distinct_images import Distinct, read_keys
from stages.components.embeddings.image_rows import Compute, ImageRows, RowLayout, begin_array
from stages.components.embeddings.reused_rows import find_known_rows
from stages.components.inputs.image_source import Images
from stages.components.loading.batch import Batch
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
    EmbedConfig(as_plain(student.config), student.sha256, student.name, precision, params.normalize).write(draft.path)
    draft.adopt(CONFIG_NAME)
    known = None
    if not context.force:
        sources = _sources(context.store, student, params, precision)
        known = find_known_rows(
            distinct.keys, draft, sources=sources, context=context, read_keys=read_keys, kind=IMAGE_KIND
        )
    layout = RowLayout(
        kind=IMAGE_KIND,
        dim=student.config.embedding_dim,
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
        return lambda batches: _embeddings(embedder, batches, normalize=params.normalize)

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
        uses=() if student.artifact is None else (student.artifact.record.digest,),
        environment={"device": device.type, "precision": precision},
    )


def _embeddings(
    embedder: ImageEmbedder, batches: Iterable[Batch], *, normalize: bool
) -> Iterator[tuple[Batch, Tensor]]:
    """Yield the embeddings of each batch, (read, dim), float32, of unit length where that is asked for."""
    for batch, _, embeddings in embedder.over(batches):
        yield batch, unit(embeddings) if normalize else embeddings


def unit(embeddings: Tensor) -> Tensor:
    """Scale each row to unit length; rows of zeros stay."""
    lengths = np.linalg.norm(embeddings.numpy(), axis=1, keepdims=True)
    return embeddings / torch.from_numpy(np.maximum(lengths, np.finfo(np.float32).tiny))


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
