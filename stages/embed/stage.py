"""embed: embed every image of a folder, a manifest or a pack once, by a student.

Takes:  an artifact of distill, and images.
Does:   finds the distinct images, reuses rows of earlier artifacts, embeds the rest, shard by shard; of a student of a
        frozen backbone it has encode-images compute the features, and applies the head to them.
Gives:  embeddings.zarr (row k: the embedding of image k), images.parquet, rejected.parquet, embed.json.
"""

from pipeline.stage import Context, Input, Result, Stage
from pipeline.store.draft import Draft
from stages.components.student.checkpoints import find_checkpoint
from stages.embed.options import EmbedInputs, EmbedParams, EmbedRuntime, EmbedSources


def embed(params: EmbedParams, sources: EmbedSources, out: Draft, runtime: EmbedRuntime, context: Context) -> Result:
    """Write one embedding for each distinct image, in order of first appearance."""
    if sources.backbone is not None:
        from stages.embed.features import embed_features_of_images

        return embed_features_of_images(params, runtime, sources=sources, draft=out, context=context)
    from stages.embed.run import embed_images

    return embed_images(
        params,
        runtime,
        student=sources.student.value,
        images=sources.images.value,
        draft=out,
        context=context,
    )


def identify(inputs: EmbedInputs, params: EmbedParams, context: Context) -> EmbedSources:
    """Find the student, list the images, and hash them and their paths."""
    student = find_checkpoint(inputs.student, store=context.store)
    images, paths = inputs.identify(params, context)
    backbone = student.config.backbone_digest
    return EmbedSources(
        student=Input(student.identity, str(student.folder.resolve()), value=student),
        images=images,
        paths=Input(paths.digest, paths.location, value=inputs),
        backbone=Input(backbone, value=None) if backbone else None,
    )


def check(params: EmbedParams, inputs: EmbedInputs, runtime: EmbedRuntime) -> None:
    """Refuse a device that is not there and a precision that it does not serve."""
    from stages.components.compute.device import find_devices
    from stages.components.compute.precision import check_precision

    [device] = find_devices(runtime.device, most=1)
    check_precision(params.precision, device)


STAGE = Stage(
    name="embed",
    version=1,
    summary="Embed the images of a folder, a manifest or a pack once, with a student.",
    params=EmbedParams,
    inputs=EmbedInputs,
    runtime=EmbedRuntime,
    identify=identify,
    run=embed,
    joinable=True,
    check=check,
    keep=True,
)
