"""embed: every picture of a folder, a manifest or a pack through a student, once.

Takes:  an artifact of distill, and pictures.
Does:   finds the distinct pictures, takes over what earlier artifacts know, embeds the rest, shard by shard.
Gives:  embeddings.zarr (row k: the embedding of picture k), images.parquet, rejected.parquet, embed.json.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from pipeline.draft import Draft
from pipeline.fingerprint import hash_json
from pipeline.options import FRACTION, POSITIVE, Check, option
from pipeline.stage import Context, Input, Result, Stage
from stages.checkpoints import find_checkpoint
from stages.image_set import ImageSet, identify_images
from stages.manifest_format import ManifestFormat
from stages.picture_source import PictureSource


@dataclass(frozen=True)
class EmbedInputs(PictureSource):
    """Where the inputs lie; hashed by content."""

    student: str | None = option(
        None,
        help="Artifact of distill, by fingerprint or path; REF@epoch_3 takes a checkpoint. Default: the newest.",
        metavar="REF",
        artifact="distill",
    )
    packed: str | None = option(
        None,
        help="Artifact of pack, by fingerprint or path, whose pictures are taken; with --manifest or --images, those "
        "of them that it has all of.",
        metavar="REF",
        artifact="pack",
    )


@dataclass(frozen=True)
class Pictures:
    """What is embedded.

    Args:
        images: the pictures, each path once.
        by_content: whether the digests of their files tell which are the same.
    """

    images: ImageSet
    by_content: bool


@dataclass(frozen=True)
class EmbedParams(ManifestFormat):
    """What changes the output."""

    precision: str = option(
        "auto",
        help="Of the student's matrix products; auto: bf16 where the device has it, else fp32.",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    embedding_dtype: str = option(
        "float16", help="Numbers that are stored; float16 halves the disk.", choices=("float16", "float32")
    )
    normalize: bool = option(False, help="Scale each embedding to unit length, for indexes that do not do so.")
    shard_rows: int = option(
        8192,
        help="Pictures in one shard file: what an interrupted run loses at most.",
        check=Check("be a positive multiple of 256", lambda rows: rows > 0 and rows % 256 == 0),
    )


@dataclass(frozen=True)
class EmbedRuntime:
    """What changes only how fast or where it runs; not hashed."""

    device: str = option("auto", help="Where the student runs: auto, cpu, cuda, ...")
    workers: int = option(
        -1,
        help="Processes that read pictures; fewer where batches are large. -1: one less than the cores, at most 8.",
    )
    batch_size: int = option(256, help="Pictures embedded at a time.", check=POSITIVE)
    max_bad_fraction: float = option(0.01, help="Unreadable pictures beyond this share stop the stage.", check=FRACTION)


def embed(
    params: EmbedParams, inputs: Mapping[str, Input], out: Draft, runtime: EmbedRuntime, context: Context
) -> Result:
    """Write one embedding per distinct picture, in order of first appearance."""
    from stages.embed.run import embed_pictures

    return embed_pictures(
        params,
        runtime,
        student=inputs["student"].value,
        pictures=inputs["pictures"].value,
        draft=out,
        context=context,
    )


def identify(inputs: EmbedInputs, params: EmbedParams, context: Context) -> Mapping[str, Input]:
    """Find the student, list the pictures, and hash them and their paths."""
    student = find_checkpoint(inputs.student, store=context.store)
    found = Input(student.identity, str(student.folder.resolve()), value=student)
    return {"student": found, **_find_pictures(inputs, params, context)}


def _find_pictures(inputs: EmbedInputs, params: EmbedParams, context: Context) -> dict[str, Input]:
    from stages.packed_image_set import Pack, find_packed, take_all  # keeps numpy and pyarrow out of --help

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
    pictures = replace(found, value=Pictures(found.value, by_content=by_content))
    names = Input(digest=hash_json(list(pictures.value.images.paths)), location=str(root.resolve()))
    return {"pictures": pictures, "paths": names}


STAGE = Stage(
    name="embed",
    version=1,
    summary="Embed the pictures of a folder, a manifest or a pack once, with a student.",
    params=EmbedParams,
    inputs=EmbedInputs,
    runtime=EmbedRuntime,
    identify=identify,
    run=embed,
    keep=True,
)
