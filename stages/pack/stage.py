"""pack: shrink images once and store them in large files, which training and evaluation read quickly.

Takes:  a manifest of image-caption pairs, or a folder of images.
Does:   reads each distinct image, shrinks it if it is larger than asked for, and writes it into shards.
Gives:  shards/N.bin (concatenated records), index/N.parquet (places of records), pack.json, rejected.parquet.
"""

from pipeline.fingerprint import hash_json
from pipeline.stage import Context, Input, Result, Stage, Work
from pipeline.store.draft import Draft
from stages.components.images.opening import identify_images
from stages.pack.options import PackInputs, PackParams, PackRuntime, PackSources


def pack(params: PackParams, sources: PackSources, out: Draft, runtime: PackRuntime, context: Context) -> Result:
    """Write every distinct image, in order of first appearance."""
    from stages.pack.run import pack_images

    return pack_images(params, runtime, images=sources.images.value, draft=out)


def identify(inputs: PackInputs, params: PackParams, context: Context) -> PackSources:
    """List the images, and hash them and their paths."""
    root, paths = inputs.find(params, context.file_digests)
    images = identify_images(root, paths, identity=inputs.image_identity, file_digests=context.file_digests)
    return PackSources(images=images, paths=Input(digest=hash_json(paths), location=images.location, value=None))


def work(params: PackParams, sources: PackSources, context: Context) -> Work:
    """Count the images, and estimate their bytes from the headers of some of them."""
    from stages.pack.work_estimate import packed_bytes

    images = sources.images.value
    return Work(
        counts={"images": len(images.paths)},
        paced_by="images",
        like=("short_side", "format"),
        size=packed_bytes(images, short_side=params.short_side, format_=params.format),
    )


STAGE = Stage(
    name="pack",
    version=1,
    summary="Shrink images and store them in shards, to be read quickly.",
    params=PackParams,
    inputs=PackInputs,
    runtime=PackRuntime,
    identify=identify,
    run=pack,
    joinable=True,
    work=work,
)
