"""pack: pictures shrunk once and put one behind the other, for training and evaluation to read quickly.

Takes:  a manifest of image-caption pairs, or a folder of pictures.
Does:   reads each distinct picture, shrinks what is larger than asked for, and writes it into shards.
Gives:  shards/N.bin (records one behind the other), index/N.parquet (what lies where), pack.json, rejected.parquet.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.draft import Draft
from pipeline.fingerprint import hash_json
from pipeline.options import FRACTION, NOT_NEGATIVE, POSITIVE, Check, option
from pipeline.stage import Context, Input, Result, Stage, Work
from stages.image_set import identify_images
from stages.manifest_format import ManifestFormat
from stages.picture_source import PictureSource


@dataclass(frozen=True)
class PackInputs(PictureSource):
    """Where the inputs lie; hashed by content."""


@dataclass(frozen=True)
class PackParams(ManifestFormat):
    """What changes the output."""

    short_side: int = option(
        256, help="Pixels of the shorter side; smaller pictures stay as they are. 0: all do.", check=NOT_NEGATIVE
    )
    format: str = option(
        "jpeg",
        help="What a record is: a JPEG file, or 8-bit RGB, which takes some ten times the space and no decoding.",
        choices=("jpeg", "raw"),
    )
    quality: int = option(
        90,
        help="Of JPEG, 1 to 100. An upright JPEG that is small enough keeps its bytes.",
        check=Check("lie between 1 and 100", lambda quality: 1 <= quality <= 100),
    )
    shard_images: int = option(
        8192, help="Pictures in one shard file: what an interrupted run loses at most.", check=POSITIVE
    )


@dataclass(frozen=True)
class PackRuntime:
    """What changes only how fast or where it runs; not hashed."""

    workers: int = option(-1, help="Threads that read pictures. -1: one less than the cores, at most 8.")
    max_bad_fraction: float = option(0.01, help="Unreadable pictures beyond this share stop the stage.", check=FRACTION)


def pack(params: PackParams, inputs: Mapping[str, Input], out: Draft, runtime: PackRuntime, context: Context) -> Result:
    """Write every distinct picture, in order of first appearance."""
    from stages.pack.run import pack_images

    return pack_images(params, runtime, images=inputs["pictures"].value, draft=out)


def identify(inputs: PackInputs, params: PackParams, context: Context) -> Mapping[str, Input]:
    """List the pictures, and hash them and their paths."""
    root, paths = inputs.find(params, context.file_digests)
    images = identify_images(root, paths, identity=inputs.image_identity, file_digests=context.file_digests)
    return {"pictures": images, "paths": Input(digest=hash_json(paths), location=images.location)}


def work(params: PackParams, inputs: Mapping[str, Input], context: Context) -> Work:
    """Count the pictures; their bytes from the headers of some of them."""
    from stages.pack.forecast import packed_bytes

    images = inputs["pictures"].value
    return Work(
        counts={"images": len(images.paths)},
        paced_by="images",
        like=("short_side", "format"),
        size=packed_bytes(images, short_side=params.short_side, format_=params.format),
    )


STAGE = Stage(
    name="pack",
    version=1,
    summary="Shrink pictures and put them one behind the other, to be read quickly.",
    params=PackParams,
    inputs=PackInputs,
    runtime=PackRuntime,
    identify=identify,
    run=pack,
    work=work,
)
