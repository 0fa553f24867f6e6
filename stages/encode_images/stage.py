"""encode-images: put every image of a folder, a manifest or a pack once through a frozen backbone.

Takes:  images and a backbone; or a manifest and vectors that another tool computed.
Does:   finds the distinct images, reuses rows of earlier artifacts, computes the rest, shard by shard.
Gives:  features.zarr (row image_row * views + view), images.parquet, rejected.parquet, features.json.
"""

import dataclasses

from data_schemas.errors import ProtoRKDError
from pipeline.fingerprint import hash_json
from pipeline.stage import Context, Input, Result, Stage, Work
from pipeline.store.draft import Draft
from pipeline.store.store import Artifact
from stages.components.backbones.family import BackboneSource
from stages.components.backbones.frozen import identify_weights
from stages.components.images.image_set import ImageSet
from stages.components.inputs.image_source import Images
from stages.components.inputs.vectors import identify_vectors
from stages.components.student.checkpoints import find_checkpoint
from stages.components.student.frozen_backbone import locate_frozen_backbone
from stages.encode_images.options import (
    EncodeImagesInputs,
    EncodeImagesParams,
    EncodeImagesRuntime,
    EncodeImagesSources,
)


def encode_images(
    params: EncodeImagesParams,
    sources: EncodeImagesSources,
    out: Draft,
    runtime: EncodeImagesRuntime,
    context: Context,
) -> Result:
    """Write the features of each distinct image, in order of first appearance."""
    if sources.vectors is not None:
        from stages.encode_images.vectors import take_vectors

        return take_vectors(params, runtime, sources=sources, draft=out, context=context)
    from stages.encode_images.run import compute_features

    return compute_features(params, runtime, sources=sources, draft=out, context=context)


def identify(inputs: EncodeImagesInputs, params: EncodeImagesParams, context: Context) -> EncodeImagesSources:
    """Hash the backbone's weights or the vectors, the images, and their paths."""
    given = {"--backbone": params.backbone, "--student": inputs.student, "--vectors": inputs.vectors}
    named = [flag for flag, value in given.items() if value]
    if len(named) != 1:
        raise ProtoRKDError(
            f"One of --backbone, --student and --vectors must be given; got {' and '.join(named) or 'none'}. Pass what "
            "computes the features, such as --backbone timm:tf_efficientnet_lite0, or features that another tool "
            "computed."
        )
    if inputs.vectors is not None:
        return _identify_vectors(inputs, params, context)
    if (params.views > 1) == (params.augmentation == "none"):
        raise ProtoRKDError(
            f"--views and --augmentation must go together; got {params.views} and {params.augmentation}. Pass --views "
            "2 or more with --augmentation crop or light, or neither."
        )
    images, paths = inputs.identify(params, context)
    return EncodeImagesSources(
        backbone=identify_weights(params.backbone, inputs.init_from, context)
        if inputs.student is None
        else _of_student(inputs.student, inputs, params, context),
        vectors=None,
        images=images,
        paths=Input(paths.digest, paths.location, value=images.value),
    )


def _of_student(
    reference: str, inputs: EncodeImagesInputs, params: EncodeImagesParams, context: Context
) -> Input[BackboneSource | Artifact]:
    """Find the frozen backbone of a student; it counts as the weights that it was made from."""
    if inputs.init_from is not None or params.image_size or params.pooling != "native":
        raise ProtoRKDError(
            "--student must go without --init-from, --image-size and --pooling, which are the backbone's own. Leave "
            "them out."
        )
    student = find_checkpoint(reference, store=context.store)
    backbone = locate_frozen_backbone(student.config, student.weights, store=context.store)
    weights = backbone.record.inputs["weights"]
    return Input(weights.digest, weights.location, weights.parts, value=backbone)


def _identify_vectors(inputs: EncodeImagesInputs, params: EncodeImagesParams, context: Context) -> EncodeImagesSources:
    """Find vectors and what they are for; images are opened only where vectors are keyed by their digests."""
    from data_schemas.vector_sources.part import DIGEST_KEY, IMAGE_KEYS

    assert inputs.vectors is not None
    if params.views > 1 or inputs.init_from is not None:
        raise ProtoRKDError(
            "--vectors must go without --views and --init-from, which are for a backbone. Leave them out."
        )
    columns = params.vector_columns(IMAGE_KEYS)
    vectors = identify_vectors(inputs.vectors, columns, file_digests=context.file_digests)
    if vectors.value.key == DIGEST_KEY:
        images, paths = inputs.identify(params, context)
        if not images.value.by_content:
            raise ProtoRKDError(
                f"--image-identity must be content, and images files, where vectors are known by {DIGEST_KEY!r}; got "
                "others. Leave out --image-identity and --packed, or name another column with --vector-key."
            )
        return EncodeImagesSources(None, vectors, images, Input(paths.digest, paths.location, value=images.value))
    root, names = inputs.list_paths(params, context.file_digests)
    listed = Images(ImageSet(root=root, paths=names), by_content=False)
    paths_input = Input(digest=hash_json(list(names)), location=str(root.resolve()), value=listed)
    return EncodeImagesSources(None, vectors, None, paths_input)


def settle(
    params: EncodeImagesParams,
    inputs: EncodeImagesInputs,
    sources: EncodeImagesSources,
    runtime: EncodeImagesRuntime,
    context: Context,
) -> EncodeImagesParams:
    """Record the backbone of a student as if it had been named."""
    if inputs.student is None:
        return params
    assert sources.backbone is not None
    assert isinstance(sources.backbone.value, Artifact)
    kept = sources.backbone.value.record.params
    return dataclasses.replace(params, backbone=kept["name"], image_size=kept["image_size"], pooling=kept["pooling"])


def work(params: EncodeImagesParams, sources: EncodeImagesSources, context: Context) -> Work:
    """Count images and rows that are not known yet, and the bytes of all features."""
    from stages.encode_images.work_estimate import feature_work

    return feature_work(params, sources, context)


def check(params: EncodeImagesParams, inputs: EncodeImagesInputs, runtime: EncodeImagesRuntime) -> None:
    """Refuse a device that is not there, a precision that it does not serve, and an unknown backbone or size of it."""
    if inputs.vectors is not None:
        return
    from stages.components.backbones.registry import check_backbone
    from stages.components.compute.device import find_devices
    from stages.components.compute.precision import check_precision

    if inputs.student is None:
        check_backbone(params.backbone, image_size=params.image_size, pooling=params.pooling)

    [device] = find_devices(runtime.device, most=1)
    check_precision(params.precision, device)


STAGE = Stage(
    name="encode-images",
    version=1,
    summary="Put every image of a folder, a manifest or a pack once through a frozen backbone.",
    params=EncodeImagesParams,
    inputs=EncodeImagesInputs,
    runtime=EncodeImagesRuntime,
    identify=identify,
    run=encode_images,
    joinable=True,
    settle=settle,
    check=check,
    work=work,
)
