"""Embeddings that evaluation needs, as artifacts of their own: images once per student, captions once per teacher."""

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, cast

from data_schemas.embedding_array import EmbeddingArray
from data_schemas.manifest import Rejection
from data_schemas.pair_index import read_rejected, write_rejected
from pipeline.fingerprint import hash_json
from pipeline.options.declaration import option
from pipeline.peers import fail_together
from pipeline.runner import StageOutcome, run_within
from pipeline.sources import Identified, take_identified
from pipeline.stage import Context, Distributed, Input, Result, Stage
from pipeline.store.draft import Draft
from stages.components.compute.torchrun import join_torchrun
from stages.components.images.image_set import ImageSet
from stages.components.inputs.vectors import VectorSource
from stages.components.student.checkpoints import StudentWeights
from stages.components.teacher.encoding_options import EncodingOptions
from stages.components.teacher.identity import TeacherSource

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

_FEATURES_NAME = "image_embeddings.safetensors"
_SHARD_ROWS = 8192


@dataclass(frozen=True)
class ImageEmbeddings:
    """Embeddings of the images of a set that could be read, by a student, or features by a frozen backbone alone.

    Its tensors are mapped from a file: what is not used is not read.

    Shapes:
        embeddings: (readable, dim), float32.
        features: (readable, feature_dim), float32: what the projection head sees.
        rows: (readable,), int64, ascending: the image's place in the set.
        precision: fp32, bf16 or fp16, as the backbone ran.
    """

    embeddings: "Tensor"
    features: "Tensor"
    rows: "Tensor"
    rejections: tuple[Rejection, ...]
    digest: str
    precision: str


@dataclass(frozen=True)
class _ImageSources:
    """Images to embed, and the student that embeds them; it is known by its backbone alone where that is frozen.

    In place of the student there may be vectors of the images, by another tool.
    """

    student: Input[StudentWeights | VectorSource]
    images: Input[ImageSet]


@dataclass(frozen=True)
class _CaptionSources:
    """Captions to embed, and the teacher that embeds them, or vectors of them."""

    captions: "Input[pa.Array]"
    teacher: Input[TeacherSource | VectorSource]


@dataclass(frozen=True)
class _ImageParams:
    """How the student's matrix products are rounded; all else that shapes embeddings is part of the student."""

    precision: str = option("auto", help="Of the backbone's matrix products.")


@dataclass(frozen=True)
class _CaptionParams(EncodingOptions):
    """How the teacher embeds, and how many rows a shard has."""

    shard_rows: int = option(_SHARD_ROWS, help="Captions in one shard file.")


@dataclass(frozen=True)
class FeatureRuntime:
    """Where the features are computed, and how many at a time."""

    device: str
    workers: int
    batch_size: int
    batch_tokens: int


def identify_pass(student: StudentWeights, vectors: Input[VectorSource] | None) -> Input[StudentWeights | VectorSource]:
    """Identify what features of images come from: the student, or vectors by the tool in place of its backbone."""
    return vectors or Input(student.pass_identity, str(student.folder), value=student)


def embed_images(
    student: Input[StudentWeights | VectorSource],
    images: Input[ImageSet],
    *,
    precision: str,
    runtime: FeatureRuntime,
    context: Context,
) -> ImageEmbeddings:
    """Embed the images of a set, or read their embeddings from the store; each process of the context embeds its part.

    Of a student of a frozen backbone, the backbone alone embeds them, once for all heads on it: its features are the
    embeddings, until `embed_features` applies the head.

    Args:
        student: Student that embeds the images, or vectors of them, as `identify_pass` identifies it.
        images: Images of the set, identified.
        precision: Precision of the backbone: fp32, bf16, fp16, or "auto", which takes bf16 where the device has it.
        runtime: Device, workers and batch size.
        context: Store of the embeddings, and the processes that share the pass.

    Raises:
        ProtoRKDError: no image can be read, or the weights are gone or do not fit; the same in all processes.
    """
    import safetensors.torch

    params = _ImageParams("" if isinstance(student.value, VectorSource) else precision)
    inputs = Identified(_ImageSources(student=student, images=images))
    outcome = run_within(IMAGE_EMBEDDINGS, params=params, inputs=inputs, runtime=runtime, context=context)
    _require_whole(outcome, context)
    tensors = safetensors.torch.load_file(outcome.artifact.path / _FEATURES_NAME)
    return ImageEmbeddings(
        embeddings=tensors["embeddings"],
        features=tensors.get("features", tensors["embeddings"]),
        rows=tensors["rows"],
        rejections=tuple(read_rejected(outcome.artifact.path)),
        digest=outcome.artifact.record.digest,
        precision=outcome.artifact.record.environment["precision"],
    )


def embed_captions(
    captions: tuple[str, ...],
    *,
    teacher: Input[TeacherSource | VectorSource],
    recipe: EncodingOptions,
    runtime: FeatureRuntime,
    context: Context,
) -> tuple["Tensor", str]:
    """Embed captions as the teacher embedded those that the student was distilled from, in the first process only.

    Returns:
        One row per caption, and the digest of the artifact that they come from.

    Shapes:
        returns: (captions, dim), float32.
    """
    import numpy as np
    import torch

    distinct, places = distinct_captions(captions)
    params = _CaptionParams(**recipe.as_dict())
    sources = _CaptionSources(captions=Input(digest=hash_json(distinct.to_pylist()), value=distinct), teacher=teacher)
    inputs = Identified(sources)
    outcome = run_within(CAPTION_EMBEDDINGS, params=params, inputs=inputs, runtime=runtime, context=context)
    _require_whole(outcome, context)
    embeddings = EmbeddingArray.open(outcome.artifact.path)
    table = embeddings.read(0, embeddings.rows).astype(np.float32)
    return torch.from_numpy(table[np.asarray(places)]), outcome.artifact.record.digest


def _embed_images(
    params: _ImageParams, sources: _ImageSources, out: Draft, runtime: FeatureRuntime, context: Context
) -> Result:
    images = sources.images.value
    if isinstance(sources.student.value, VectorSource):
        environment = {"precision": ""}
        rejected = _take_vectors(sources.student.value, images, out, context)
    else:
        environment, rejected = _pass_images(
            sources.student.value, images, out, precision=params.precision, runtime=runtime, context=context
        )
    if context.peers.is_first:
        reasons = sorted(rejected.items())
        write_rejected(
            out.path, [Rejection(row=row, reason=reason, value=images.paths[row]) for row, reason in reasons]
        )
    counts = {"images": len(images.paths), "rejected_images": len(rejected)}
    return Result(counts=counts, environment=environment)


def _take_vectors(source: VectorSource, images: ImageSet, out: Draft, context: Context) -> dict[int, str]:
    """Take vectors of images in the first process; return why others have none."""
    from stages.evaluate.embeddings.given_vectors import take_image_vectors

    rejected: dict[int, str] = {}
    with fail_together(context.peers):
        if context.peers.is_first:
            rejected = take_image_vectors(
                source, images, draft=out, out=out.path / _FEATURES_NAME, file_digests=context.file_digests
            )
    return rejected


def _pass_images(
    student: StudentWeights, images: ImageSet, out: Draft, *, precision: str, runtime: FeatureRuntime, context: Context
) -> tuple[dict[str, str], dict[int, str]]:
    """Embed images in all processes; return the facts of the run, and why images could not be read."""
    from stages.components.compute.device import choose_device
    from stages.components.compute.distributed import ranks_of
    from stages.components.compute.precision import choose_precision
    from stages.components.student.embedder import ImageEmbedder
    from stages.evaluate.embeddings.image_pass import student_embeddings

    device = choose_device(runtime.device)
    precision = choose_precision(precision, device)
    load = ImageEmbedder.load_backbone if student.config.is_head_alone else ImageEmbedder.load
    rejected = student_embeddings(
        lambda: load(student, device=device, precision=precision, store=context.store),
        images,
        out=out.path / _FEATURES_NAME,
        scratch=out.state,
        ranks=ranks_of(context.peers),
        device=device,
        workers=runtime.workers,
        batch_size=runtime.batch_size,
    )
    return {"device": device.type, "precision": precision}, rejected


def _embed_captions(
    params: _CaptionParams, sources: _CaptionSources, out: Draft, runtime: FeatureRuntime, context: Context
) -> Result:
    from stages.components.compute.device import choose_devices
    from stages.components.embeddings.caption_embeddings import write_caption_embeddings

    if isinstance(sources.teacher.value, VectorSource):
        from stages.evaluate.embeddings.given_vectors import take_caption_vectors

        vectors, dtype = sources.teacher.value, params.embedding_dtype
        return Result(
            take_caption_vectors(vectors, sources.captions.value, draft=out, dtype=dtype, shard_rows=params.shard_rows)
        )
    written = write_caption_embeddings(
        sources.captions.value,
        out,
        teacher=cast("Input[TeacherSource]", sources.teacher),
        recipe=EncodingOptions.of(params),
        shard_rows=params.shard_rows,
        choose_devices=partial(choose_devices, runtime.device),
        batch_tokens=runtime.batch_tokens,
        context=context,
    )
    return Result(counts=written.counts, metrics=written.metrics)


def _require_whole(outcome: StageOutcome, context: Context) -> None:
    """Check the bytes of an artifact before it is used, in the first process only."""
    with fail_together(context.peers):
        if context.peers.is_first:
            outcome.require_whole()


IMAGE_EMBEDDINGS = Stage(
    name="image-embeddings",
    version=3,
    summary="Embed the images of a set with a student.",
    params=_ImageParams,
    inputs=Identified,
    runtime=FeatureRuntime,
    identify=take_identified,
    run=_embed_images,
    distributed=Distributed(join_torchrun, fails_together=True),
)

CAPTION_EMBEDDINGS = Stage(
    name="caption-embeddings",
    version=1,
    summary="Embed the captions or prompts of a set with the teacher.",
    params=_CaptionParams,
    inputs=Identified,
    runtime=FeatureRuntime,
    identify=take_identified,
    run=_embed_captions,
)


def distinct_captions(captions: tuple[str, ...]) -> "tuple[pa.Array, pa.Array]":
    """Return the distinct captions in order of first appearance, and for each caption its place among them."""
    import pyarrow as pa

    encoded = pa.array(captions, pa.large_string()).dictionary_encode()
    return encoded.dictionary, encoded.indices
