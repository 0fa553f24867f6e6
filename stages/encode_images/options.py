"""Options of encode-images: what is hashed, where inputs lie and what is found there, and how it runs."""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from data_schemas.errors import ProtoRKDError
from pipeline.options.declaration import NOT_NEGATIVE, POSITIVE, Check, option
from pipeline.stage import Input
from stages.components.inputs.image_source import Images, PackableImageSource
from stages.components.inputs.manifest_options import ManifestFormat
from stages.components.inputs.vectors import VectorOptions, VectorSource, vectors_option
from stages.components.loading.reading_options import ReadingOptions

if TYPE_CHECKING:
    from pipeline.store.store import Artifact
    from stages.components.backbones.family import BackboneSource


def backbone_names() -> Iterable[str]:
    """List the names of all backbones, for a shell to complete."""
    from stages.components.backbones.registry import FAMILIES

    for family in FAMILIES:
        with contextlib.suppress(ProtoRKDError):  # not installed
            yield from (f"{family.prefix}{name}" for name in family.names())


@dataclass(frozen=True)
class EncodeImagesInputs(PackableImageSource):
    """Where the inputs lie; hashed by content."""

    init_from: Path | None = option(
        None,
        help="File of the backbone's weights, in its family's layout. Default: those published under its name.",
        metavar="FILE",
    )
    student: str | None = option(
        None,
        help="Artifact of distill whose frozen backbone is taken, as the store keeps it, in place of --backbone.",
        metavar="STUDENT",
    )
    vectors: Path | None = vectors_option(
        of="images", keys="the image's path as --manifest writes it, or the SHA-256 of its file"
    )


@dataclass(frozen=True)
class EncodeImagesSources:
    """What the inputs lead to, identified by content: a backbone and images, or vectors and what they are for.

    Args:
        backbone: Files of the backbone's weights, or its artifact where a student has it; None beside vectors.
        vectors: Vectors that another tool computed; None beside a backbone.
        images: Images, by content; None where vectors are keyed by path.
        paths: Paths of the images.
    """

    backbone: "Input[BackboneSource | Artifact] | None"
    vectors: Input[VectorSource] | None
    images: Input[Images] | None
    paths: Input[Images]


@dataclass(frozen=True)
class EncodeImagesParams(VectorOptions, ManifestFormat):
    """What changes the output."""

    backbone: str = option(
        "",
        help="Backbone that stays as it is: timm:NAME, a classification model of torchvision, ... Required, unless "
        "there is --student or --vectors.",
        metavar="NAME",
        complete=backbone_names,
    )
    image_size: int = option(0, help="Side of the square input in pixels. 0: the backbone's own.", check=NOT_NEGATIVE)
    pooling: str = option(
        "native",
        help="Pooling of a transformer's tokens to features; native is the backbone's own.",
        choices=("native", "cls", "mean", "cls+mean"),
    )
    views: int = option(1, help="Rows of each image: the image as in evaluation, then augmented ones.", check=POSITIVE)
    augmentation: str = option(
        "none",
        help="Augmentation of the views after the first, the same for the same image and seed.",
        choices=("none", "crop", "light"),
    )
    precision: str = option(
        "auto",
        help="Of the backbone's matrix products; auto: bf16 where the device has it, else fp32. How near it comes to "
        "fp32 is measured and recorded.",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    feature_dtype: str = option(
        "float16", help="Numbers that are stored; float16 halves the disk.", choices=("float16", "float32")
    )
    shard_rows: int = option(
        8192,
        help="Rows in one shard file: what an interrupted run loses at most.",
        check=Check("be a positive multiple of 256", lambda rows: rows > 0 and rows % 256 == 0),
    )
    seed: int = option(0, help="Seed of the augmentation.", check=NOT_NEGATIVE)


@dataclass(frozen=True)
class EncodeImagesRuntime(ReadingOptions):
    """What changes only how fast or where it runs; not hashed."""

    device: str = option(
        "auto",
        help="Where the backbone runs: auto, cpu, cuda, ... Several (cuda:0,cuda:1) share the work, a process each.",
    )
