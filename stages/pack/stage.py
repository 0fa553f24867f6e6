"""pack: pictures shrunk once and put one behind the other, for training and evaluation to read quickly.

Takes:  a manifest of image-caption pairs, or a folder of pictures.
Does:   reads each distinct picture, shrinks what is larger than asked for, and writes it into shards.
Gives:  shards/N.bin (records one behind the other), index/N.parquet (what lies where), pack.json, rejected.parquet.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from data_schemas.errors import ProtoRKDError
from pipeline.draft import Draft
from pipeline.fingerprint import hash_json
from pipeline.options import FRACTION, NOT_NEGATIVE, POSITIVE, Check, option
from pipeline.stage import Context, Input, Result, Stage, Work
from stages.image_files import list_pictures
from stages.image_paths import check_inside
from stages.image_set import IDENTITIES, identify_images
from stages.manifest_format import ManifestFormat, find_pairs, find_picture_root


@dataclass(frozen=True)
class PackInputs:
    """Where the inputs lie; hashed by content."""

    manifest: Path | None = option(
        None,
        help="Image-caption pairs, in any form that encode-teacher takes, whose pictures are packed.",
        metavar="PATH",
    )
    images: Path | None = option(
        None, help="Folder whose pictures are packed, however deep they lie.", metavar="FOLDER"
    )
    image_root: Path | None = option(
        None, help="Folder that the manifest's relative image paths start from. Default: the manifest's."
    )
    allow_outside: bool = option(False, help="Let image paths lead out of their folder: the manifest is trusted.")
    image_identity: str = option(
        "content",
        help="What makes a picture the same: its bytes (read once, remembered), or its path alone.",
        choices=IDENTITIES,
    )


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
    if (inputs.manifest is None) == (inputs.images is None):
        got = "neither" if inputs.manifest is None else "both"
        raise ProtoRKDError(f"One of --manifest and --images must be given; got {got}. Pass a manifest or a folder.")
    root, paths = _folder(inputs) if inputs.manifest is None else _manifest(inputs.manifest, inputs, params, context)
    images = identify_images(root, paths, identity=inputs.image_identity, file_digests=context.file_digests)
    return {"pictures": images, "paths": Input(digest=hash_json(paths), location=images.location)}


def _manifest(manifest: Path, inputs: PackInputs, params: PackParams, context: Context) -> tuple[Path, list[str]]:
    source = find_pairs(manifest)
    # What of it is no pair is for encode-teacher to judge.
    table = params.read(source, max_bad_fraction=1.0, file_digests=context.file_digests).table
    paths = table["image"].unique().to_pylist()
    root = inputs.image_root or find_picture_root(manifest, paths)
    if not inputs.allow_outside:
        check_inside(paths, root)
    return root, paths


def _folder(inputs: PackInputs) -> tuple[Path, list[str]]:
    folder = inputs.images
    if folder is None or not folder.is_dir():
        raise ProtoRKDError(f"--images must name a folder; got {folder}.")
    if inputs.image_root is not None:
        raise ProtoRKDError(f"--image-root must go with --manifest; got {inputs.image_root}. Leave it out.")
    paths = list_pictures(folder, root=folder)
    if not paths:
        raise ProtoRKDError(f"--images must hold pictures; got none below {folder}. Check the path.")
    return folder, paths


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
