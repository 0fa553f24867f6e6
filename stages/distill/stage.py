"""distill: train an image student purely against cached teacher embeddings.

Takes:  an artifact of encode-teacher, and the images that its pair index names, or an artifact of their features.
        Or, of a student, goes on from it.
Does:   trains a backbone and a projection head, or a head on features alone, so that an image lands where its caption
        lies; loads no teacher.
Gives:  student.safetensors and student.json, checkpoints/epoch_N.safetensors, rejected.parquet, logs/metrics.jsonl.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from data_schemas.errors import ProtoRKDError
from data_schemas.images.student_checkpoint import CONFIG_NAME, find_config_beside
from pipeline.fingerprint import hash_json
from pipeline.remote.object_store import url_of
from pipeline.stage import Context, Distributed, Input, Result, Stage, Work
from pipeline.store.draft import Draft
from pipeline.store.store import Artifact, Store
from stages.components.backbones.family import BackboneSource
from stages.components.backbones.frozen import identify_source, identify_weights
from stages.components.compute.torchrun import join_torchrun
from stages.components.images.image_set import ImageSet
from stages.components.images.opening import identify_images
from stages.components.inputs.manifest_options import find_image_root
from stages.components.inputs.path_checks import check_inside, is_own
from stages.distill.feature_options import AUTO, NEWEST, check_feature_options, without_images
from stages.distill.fine_tuning import check_start, find_start, settle_start
from stages.distill.options import DistillInputs, DistillParams, DistillRuntime, DistillSources
from stages.distill.overview import OVERVIEW
from stages.distill.own_features import find_own_features, prepare
from stages.distill.presets import PRESETS

if TYPE_CHECKING:
    import pyarrow as pa


def distill(
    params: DistillParams, sources: DistillSources, out: Draft, runtime: DistillRuntime, context: Context
) -> Result:
    """Train the student to the end of its schedule, and write its weights."""
    from stages.distill.run import train_student

    return train_student(params, runtime, sources=sources, draft=out, context=context)


def identify(inputs: DistillInputs, params: DistillParams, context: Context) -> DistillSources:
    """Find the cached embeddings, and hash the images that their pair index names, or find their features."""
    from data_schemas.pair_index import PAIRS_NAME, read_pairs

    check_start(params, inputs)
    check_feature_options(inputs, params)
    start = find_start(params, inputs, context)
    artifact = context.store.resolve(inputs.embeddings, stage="encode-teacher", flag="--embeddings")
    artifact.require_whole((PAIRS_NAME,), read=True)
    embeddings = Input(digest=artifact.record.digest, location=str(artifact.path.resolve()), value=artifact)
    prototypes = None
    if params.reads_prototypes:
        prototypes = _artifact(inputs.prototypes, "prototypes", "--prototypes", context)
    if inputs.features is not None:
        return DistillSources(
            embeddings, None, None, prototypes, features=_features(inputs.features, inputs, params, context)
        )
    return DistillSources(
        embeddings=embeddings,
        images=_images(inputs, artifact, read_pairs(artifact.path)["image"], context),
        init_from=None if inputs.init_from is None else _weights(inputs.init_from, params.student, context),
        prototypes=prototypes,
        architecture=_architecture(params, context) if start is None else None,
        pretrained=_pretrained(params, context) if params.pretrained else None,
        from_student=start,
    )


def _features(reference: str, inputs: DistillInputs, params: DistillParams, context: Context) -> Input[Artifact]:
    if reference == AUTO:
        artifact = find_own_features(inputs, params, context)
    else:
        named = None if reference == NEWEST else reference
        artifact = context.store.resolve(named, stage="encode-images", flag="--features")
    return Input(digest=artifact.record.digest, location=str(artifact.path.resolve()), value=artifact)


def _architecture(params: DistillParams, context: Context) -> Input[BackboneSource] | None:
    from stages.components.backbones.registry import find_family

    family, name = find_family(params.student)
    described = family.find_description(name)
    return None if described is None else identify_source(described, context)


def _pretrained(params: DistillParams, context: Context) -> Input[BackboneSource]:
    from stages.components.backbones.registry import published_name

    return identify_weights(published_name(params.student, params.pretrained), None, context)


def _images(inputs: DistillInputs, embeddings: Artifact, paths: "pa.ChunkedArray", context: Context) -> Input[ImageSet]:
    manifest = Path(embeddings.record.inputs["manifest"].location)
    if inputs.packed is None:
        names = paths.to_pylist()
        root = inputs.image_root or find_image_root(manifest, names)
        if not inputs.allow_outside:
            is_trusted = url_of(str(context.store)) is None and is_own(manifest)  # no record of others says so
            check_inside(names, root, absolute=is_trusted)
        return identify_images(root, names, identity=inputs.image_identity, file_digests=context.file_digests)
    if inputs.image_root is not None:
        raise ProtoRKDError(f"Only one of --packed and --image-root must be given; got {inputs.image_root} as well.")
    from stages.components.images.packed_image_set import take_packed

    pack = context.store.resolve(inputs.packed, stage="pack", flag="--packed")
    return take_packed(pack, paths.combine_chunks(), manifest=str(manifest))


def _weights(path: Path, student: str, context: Context) -> Input[Path]:
    if not path.is_file():
        raise ProtoRKDError(f"--init-from must name a file of weights; got {path}. Check the path.")
    digest, parts = context.file_digests.digest(path), {}
    if config := find_config_beside(path):  # it says how the weights want their images normalised
        parts = {"weights": digest, CONFIG_NAME: context.file_digests.digest(config)}
        digest = hash_json(parts)
    if _prepares_anew(student):
        parts = {**(parts or {"weights": digest}), "preprocessing": "as published"}
        digest = hash_json(parts)
    return Input(digest=digest, location=str(path.resolve()), parts=parts, value=path)


def _prepares_anew(student: str) -> bool:
    """Tell whether images for weights of a file once were prepared otherwise than the weights want it."""
    from stages.components.backbones.open_clip_family import OpenCLIPFamily
    from stages.components.backbones.registry import find_family

    return student == "efficientnet_v2_l" or isinstance(find_family(student)[0], OpenCLIPFamily)


def _artifact(reference: str | None, stage: str, flag: str, context: Context) -> Input[Artifact] | None:
    if reference is None:
        return None
    artifact = context.store.resolve(reference, stage=stage, flag=flag)
    return Input(digest=artifact.record.digest, location=str(artifact.path.resolve()), value=artifact)


def settle(
    params: DistillParams,
    inputs: DistillInputs,
    sources: DistillSources,
    runtime: DistillRuntime,
    context: Context,
) -> DistillParams:
    """Record what student is trained, and nothing of images where there are features, however that was asked for."""
    if sources.from_student is not None:
        return settle_start(params, sources.from_student.value)
    return params if sources.features is None else without_images(params)


def work(params: DistillParams, sources: DistillSources, context: Context) -> Work:
    """Count examples and steps, and the bytes of the weights that are kept."""
    from stages.distill.work_estimate import training_work

    return training_work(params, sources)


def check(params: DistillParams, inputs: DistillInputs, runtime: DistillRuntime) -> None:
    """Refuse an unknown objective, option, student, source of weights, device or tracker."""
    from stages.distill.checks import check_training

    check_training(params, inputs, runtime)


def lacking(artifact: Artifact, store: Store) -> dict[str, str]:
    """Name the frozen backbone of a student, where the store has it no more."""
    from stages.components.student.frozen_backbone import lacking_backbone

    return lacking_backbone(artifact, store=store)


STAGE = Stage(
    name="distill",
    version=3,
    summary="Train an image student against cached teacher embeddings.",
    params=DistillParams,
    inputs=DistillInputs,
    runtime=DistillRuntime,
    identify=identify,
    prepare=prepare,
    run=distill,
    settle=settle,
    check=check,
    keep=True,
    distributed=Distributed(join_torchrun),
    work=work,
    overview=OVERVIEW,
    lacking=lacking,
    presets=PRESETS,
)
