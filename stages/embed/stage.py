"""embed: embed every image of a folder, a manifest or a pack once, by a student.

Takes:  an artifact of distill, and images.
Does:   finds the distinct images, reuses rows of earlier artifacts, embeds the rest, shard by shard.
Gives:  embeddings.zarr (row k: the embedding of image k), images.parquet, rejected.parquet, embed.json.
"""

from pathlib import Path

from pipeline.fingerprint import hash_json
from pipeline.stage import Context, Input, Result, Stage
from pipeline.store.draft import Draft
from stages.components.images.opening import identify_images
from stages.components.student.checkpoints import find_checkpoint
from stages.embed.options import EmbedInputs, EmbedParams, EmbedRuntime, EmbedSources, Images


def embed(params: EmbedParams, sources: EmbedSources, out: Draft, runtime: EmbedRuntime, context: Context) -> Result:
    """Write one embedding for each distinct image, in order of first appearance."""
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
    images, paths = _find_images(inputs, params, context)
    return EmbedSources(
        student=Input(student.identity, str(student.folder.resolve()), value=student), images=images, paths=paths
    )


def _find_images(inputs: EmbedInputs, params: EmbedParams, context: Context) -> tuple[Input[Images], Input[None]]:
    """Find the images, and their paths below the root that they start from."""
    from stages.components.images.packed_image_set import (  # keeps numpy and pyarrow out of --help
        Pack,
        find_packed,
        take_all,
    )

    pack = None
    if inputs.packed is not None:
        pack = Pack.open(context.store.resolve(inputs.packed, stage="pack", flag="--packed"))
    if pack is not None and inputs.manifest is None and inputs.images is None:
        root, found = Path(pack.artifact.record.inputs["paths"].location), take_all(pack)
        by_content = False
    else:
        root, paths = inputs.find(params, context.file_digests)
        packed = find_packed([pack], root, paths) if pack is not None else None
        found = packed or identify_images(
            root, paths, identity=inputs.image_identity, file_digests=context.file_digests
        )
        by_content = packed is None and inputs.image_identity == "content"
    images = Images(found.value, by_content=by_content)
    return (
        Input(digest=found.digest, location=found.location, parts=found.parts, value=images),
        Input(digest=hash_json(list(found.value.paths)), location=str(root.resolve()), value=None),
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
    check=check,
    keep=True,
)
