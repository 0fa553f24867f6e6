"""Embed distinct images by the head of a student, on the features that encode-images keeps of its frozen backbone."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import fields
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from data_schemas.embedding_array import FEATURE_KIND, IMAGE_KIND, EmbeddingArray, array_name
from data_schemas.errors import ProtoRKDError
from data_schemas.pair_index import REJECTED_NAME, read_rejected, write_rejected
from pipeline.runner import make_artifact
from pipeline.stage import Context, Result
from pipeline.store.draft import Draft
from pipeline.store.store import Artifact
from stages.components.compute.device import choose_device
from stages.components.embeddings.distinct_images import Distinct
from stages.components.embeddings.embedding_rows import EmbeddingRows
from stages.components.embeddings.storage_dtype import store_as
from stages.components.inputs.image_source import PackableImageSource
from stages.components.inputs.manifest_options import ManifestFormat
from stages.components.student.checkpoints import StudentWeights
from stages.components.student.head_on_features import embed_features
from stages.embed.run import Finish, describe_embeddings

if TYPE_CHECKING:
    from stages.embed.options import EmbedParams, EmbedRuntime, EmbedSources


def embed_features_of_images(
    params: "EmbedParams",
    runtime: "EmbedRuntime",
    *,
    sources: "EmbedSources",
    draft: Draft,
    context: Context,
) -> Result:
    """Embed images, each once, into a draft; features are always taken as float16, whatever the store holds.

    Reads:  the artifact of encode-images of the same backbone and images, which is made where there is none.
    Writes: embeddings of shape (distinct images, dim), and the row of each image.

    Raises:
        ProtoRKDError: as encode-images, an embedding is not finite, or the disk is full.
    """
    student, images = sources.student.value, sources.images.value
    assert student.artifact is not None
    device = choose_device(runtime.device)
    features = _make_features(params, runtime, sources=sources, context=context)
    features.require_whole((REJECTED_NAME,), read=True)
    distinct = Distinct.of(images.images, images.digests(context.file_digests))
    precision = features.record.environment["precision"]
    finish = Finish.of(params, sources.calibration, runtime, context)
    describe_embeddings(params, student, precision=precision, draft=draft)
    rejections = read_rejected(features.path)
    without = {entry.row for entry in rejections}
    lost = np.unique(distinct.rows[sorted(without)])
    rows = EmbeddingRows(features, kind=FEATURE_KIND)
    _write_embeddings(params, rows, distinct, lost=lost, student=student, finish=finish, device=device, draft=draft)
    write_rejected(draft.path, rejections)
    distinct.write(draft.path, without=without)
    num_embedded = len(distinct.firsts) - len(lost)
    return Result(
        counts={
            "images": len(distinct.rows) - len(rejections),
            "distinct_images": num_embedded,
            "rejected_images": len(rejections),
            "rejected_reasons": dict(Counter(entry.reason for entry in rejections)),
            "embedded_images": num_embedded,
            "reused_images": 0,
            "resumed_images": 0,
        },
        uses=(student.artifact.record.digest, student.config.backbone_digest, features.record.digest, *finish.uses),
        environment={"device": device.type, "precision": precision},
    )


def _name(distinct: Distinct, start: int, place: int) -> str:
    return repr(distinct.path(start + place))


def _make_features(
    params: "EmbedParams", runtime: "EmbedRuntime", *, sources: "EmbedSources", context: Context
) -> Artifact:
    """Find or make the features of the images, as they were asked for.

    Raises:
        ProtoRKDError: as encode-images, or the images are others by now.
    """
    student = sources.student.value
    artifact = make_artifact(
        "encode-images",
        params={**_shared(params, ManifestFormat), "precision": params.precision, "shard_rows": params.shard_rows},
        inputs={**_shared(sources.paths.value, PackableImageSource), "student": f"{student.folder}@{student.name}"},
        runtime=_shared(runtime, type(runtime)),
        context=context,
    )
    seen = artifact.record.inputs
    if (seen["images"].digest, seen["paths"].digest) != (sources.images.digest, sources.paths.digest):
        raise ProtoRKDError("The images must stay as they are while embed reads them. Run the same command again.")
    return artifact


def _shared(options: Any, kind: type[Any]) -> Mapping[str, Any]:
    """Return the values of the options that a dataclass has, by name."""
    return {each.name: getattr(options, each.name) for each in fields(kind)}


def _write_embeddings(
    params: "EmbedParams",
    features: EmbeddingRows,
    distinct: Distinct,
    *,
    lost: NDArray[np.int64],
    student: StudentWeights,
    finish: Finish,
    device: torch.device,
    draft: Draft,
) -> None:
    """Apply the head shard by shard; rows of images that could not be read, ``lost``, stay zeros."""
    array = EmbeddingArray.create(
        draft.path,
        rows=len(distinct.firsts),
        dim=student.config.embedding_dim + finish.num_added,
        dtype=params.embedding_dtype,
        shard_rows=params.shard_rows,
        kind=IMAGE_KIND,
    )
    draft.adopt(f"{array_name(IMAGE_KIND)}/zarr.json")
    for shard in array.shards():
        rows = torch.from_numpy(features[shard.start : shard.stop].astype(np.float32))
        values = finish(embed_features(student, rows, device=device)).numpy()
        values[lost[(lost >= shard.start) & (lost < shard.stop)] - shard.start] = 0
        stored = store_as(
            values,
            array.dtype,
            model="student",
            noun="image",
            name=partial(_name, distinct, shard.start),
        )
        array.write(shard, stored)
        draft.adopt(shard.path)
