"""Embeddings that evaluation needs, as artifacts of their own: pictures once a student, captions once a teacher."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from data_schemas.errors import ProtoRKDError
from data_schemas.manifest import Rejection
from data_schemas.pair_index import read_rejected, write_rejected
from data_schemas.student_checkpoint import StudentConfig
from data_schemas.teacher_embeddings import TeacherEmbeddings
from pipeline.draft import Draft
from pipeline.fingerprint import hash_json
from pipeline.options import option
from pipeline.runner import run_stage
from pipeline.stage import Context, Input, Result, Stage
from pipeline.store import Artifact
from stages.evaluate.sets import distinct_captions
from stages.recipe import Recipe

if TYPE_CHECKING:
    import pyarrow as pa
    from torch import Tensor

    from stages.image_set import ImageSet

_FEATURES_NAME = "image_embeddings.safetensors"
_SHARD_ROWS = 8192


@dataclass(frozen=True)
class ImageEmbeddings:
    """A student's embeddings of the pictures of a set that could be read.

    Shapes:
        embeddings: (readable, dim), float32.
        rows: (readable,), int64, ascending: the picture's place in the set.
    """

    embeddings: "Tensor"
    rows: "Tensor"
    rejections: tuple[Rejection, ...]
    digest: str


@dataclass(frozen=True)
class _Inputs:
    """Already identified by the stage that asks."""

    found: Mapping[str, Input]


@dataclass(frozen=True)
class _NoParams:
    """What pictures become is settled by the student alone."""


@dataclass(frozen=True)
class _CaptionParams(Recipe):
    """How the teacher embeds, and how many rows a shard has."""

    shard_rows: int = option(_SHARD_ROWS, help="Captions in one shard file.")


@dataclass(frozen=True)
class FeatureRuntime:
    """Where the features are computed, and how many at a time."""

    device: str
    workers: int
    batch_size: int
    batch_tokens: int


@dataclass(frozen=True)
class LoadedStudent:
    """A student to be measured.

    Args:
        config: what its folder says of it.
        artifact: where it lies.
        weights: its file of weights, relative to the artifact.
    """

    config: StudentConfig
    artifact: Artifact
    weights: str

    @property
    def identity(self) -> str:
        """Hash of the weights and of what is done to pictures."""
        files = {file.path: file.sha256 for file in self.artifact.record.files}
        return hash_json([files[self.weights], self.config.backbone, self.config.preprocessing])


def embed_images(
    student: LoadedStudent, images: Input, *, runtime: FeatureRuntime, context: Context
) -> ImageEmbeddings:
    """Embed the pictures of a set, or find them embedded."""
    import safetensors.torch

    inputs = _Inputs(
        found={"student": Input(student.identity, str(student.artifact.path), value=student), "images": images}
    )
    outcome = run_stage(IMAGE_EMBEDDINGS, params=_NoParams(), inputs=inputs, runtime=runtime, context=context)
    path = outcome.artifact.path
    outcome.artifact.require_whole(read=True)
    tensors = safetensors.torch.load_file(path / _FEATURES_NAME)
    return ImageEmbeddings(
        embeddings=tensors["embeddings"],
        rows=tensors["rows"],
        rejections=tuple(read_rejected(path)),
        digest=outcome.artifact.record.digest,
    )


def embed_captions(
    captions: tuple[str, ...], *, teacher: Input, recipe: Recipe, runtime: FeatureRuntime, context: Context
) -> tuple["Tensor", str]:
    """Embed captions as the student's teacher embedded those that it was distilled from.

    Returns:
        One row a caption, and the digest of the artifact that they come from.

    Shapes:
        returns: (captions, dim), float32.
    """
    import numpy as np
    import torch

    distinct, places = distinct_captions(captions)
    params = _CaptionParams(**recipe.as_dict())
    given = Input(digest=hash_json(distinct.to_pylist()), value=distinct)
    inputs = _Inputs(found={"captions": given, "teacher": teacher})
    outcome = run_stage(CAPTION_EMBEDDINGS, params=params, inputs=inputs, runtime=runtime, context=context)
    outcome.artifact.require_whole(read=True)
    embeddings = TeacherEmbeddings.open(outcome.artifact.path)
    table = embeddings.read(0, embeddings.rows).astype(np.float32)
    return torch.from_numpy(table[np.asarray(places)]), outcome.artifact.record.digest


def _embed_images(
    params: _NoParams, inputs: Mapping[str, Input], out: Draft, runtime: FeatureRuntime, context: Context
) -> Result:
    from stages.evaluate.image_features import student_embeddings

    student: LoadedStudent = inputs["student"].value
    images: ImageSet = inputs["images"].value
    rejected = student_embeddings(
        student.config,
        student.artifact.path / student.weights,
        images,
        out=out.path / _FEATURES_NAME,
        device=runtime.device,
        workers=runtime.workers,
        batch_size=runtime.batch_size,
    )
    rejections = [
        Rejection(row=row, reason=reason, value=images.paths[row]) for row, reason in sorted(rejected.items())
    ]
    write_rejected(out.path, rejections)
    if len(rejections) == len(images.paths):
        raise ProtoRKDError(f"A set must have readable pictures; got none of {len(images.paths)} below {images.root}.")
    return Result(counts={"images": len(images.paths), "rejected_images": len(rejections)})


def _embed_captions(
    params: _CaptionParams, inputs: Mapping[str, Input], out: Draft, runtime: FeatureRuntime, context: Context
) -> Result:
    from stages.caption_embeddings import write_caption_embeddings

    captions: pa.Array = inputs["captions"].value
    counts = write_caption_embeddings(
        captions,
        out,
        teacher=inputs["teacher"],
        recipe=Recipe.of(params),
        shard_rows=params.shard_rows,
        device=runtime.device,
        batch_tokens=runtime.batch_tokens,
        context=context,
    )
    return Result(counts=asdict(counts))


def _given(inputs: _Inputs, _params: object, _context: Context) -> Mapping[str, Input]:
    return inputs.found


IMAGE_EMBEDDINGS = Stage(
    name="image-embeddings",
    version=1,
    summary="Embed the pictures of a set with a student.",
    params=_NoParams,
    inputs=_Inputs,
    runtime=FeatureRuntime,
    identify=_given,
    run=_embed_images,
)

CAPTION_EMBEDDINGS = Stage(
    name="caption-embeddings",
    version=1,
    summary="Embed the captions or prompts of a set with the teacher.",
    params=_CaptionParams,
    inputs=_Inputs,
    runtime=FeatureRuntime,
    identify=_given,
    run=_embed_captions,
)
