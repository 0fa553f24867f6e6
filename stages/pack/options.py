"""Options of pack: what is hashed, where inputs lie and what is found there, and how it runs."""

from dataclasses import dataclass, field

from pipeline.options.declaration import FRACTION, NOT_NEGATIVE, POSITIVE, Check, option
from pipeline.sources import hashed_as
from pipeline.stage import Input
from stages.components.images.image_set import ImageSet
from stages.components.inputs.image_source import ImageSource
from stages.components.inputs.manifest_options import ManifestFormat


@dataclass(frozen=True)
class PackInputs(ImageSource):
    """Where the inputs lie; hashed by content."""


@dataclass(frozen=True)
class PackSources:
    """What the inputs lead to, identified by content."""

    images: Input[ImageSet] = field(metadata=hashed_as("pictures"))
    paths: Input[None]


@dataclass(frozen=True)
class PackParams(ManifestFormat):
    """What changes the output."""

    short_side: int = option(
        256, help="Pixels of the shorter side; smaller images stay as they are. 0: all do.", check=NOT_NEGATIVE
    )
    format: str = option(
        "jpeg",
        help="What a record is: a JPEG file, or 8-bit RGB, which takes some ten times the space and no decoding.",
        choices=("jpeg", "raw"),
    )
    quality: int = option(
        90,
        help="JPEG quality, 1 to 100. An upright JPEG that is small enough keeps its bytes.",
        check=Check("lie between 1 and 100", lambda quality: 1 <= quality <= 100),
    )
    shard_images: int = option(
        8192, help="Images in one shard file: what an interrupted run loses at most.", check=POSITIVE
    )


@dataclass(frozen=True)
class PackRuntime:
    """What changes only how fast or where it runs; not hashed."""

    workers: int = option(-1, help="Threads that read images. -1: one less than the cores, at most 8.")
    max_bad_fraction: float = option(0.01, help="Unreadable images beyond this share stop the stage.", check=FRACTION)
