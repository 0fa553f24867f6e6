"""Options of embed: what is hashed, where inputs lie and what is found there, and how it runs."""

from dataclasses import dataclass, field

from pipeline.options.declaration import FRACTION, POSITIVE, Check, option
from pipeline.sources import hashed_as
from pipeline.stage import Input
from stages.components.images.image_set import ImageSet
from stages.components.inputs.image_source import ImageSource
from stages.components.inputs.manifest_options import ManifestFormat
from stages.components.student.checkpoints import StudentWeights


@dataclass(frozen=True)
class EmbedInputs(ImageSource):
    """Where the inputs lie; hashed by content."""

    student: str | None = option(
        None,
        help="Artifact of distill, by fingerprint or path; REF@epoch_3 takes a checkpoint. Default: the newest.",
        metavar="REF",
        artifact="distill",
    )
    packed: str | None = option(
        None,
        help="Artifact of pack, by fingerprint or path, whose images are taken; with --manifest or --images, those "
        "of them that it has all of.",
        metavar="REF",
        artifact="pack",
    )


@dataclass(frozen=True)
class Images:
    """Images to embed.

    Args:
        images: Images to embed, each path once.
        by_content: Whether images are the same if the digests of their files are.
    """

    images: ImageSet
    by_content: bool


@dataclass(frozen=True)
class EmbedSources:
    """What the inputs lead to, identified by content."""

    student: Input[StudentWeights]
    images: Input[Images] = field(metadata=hashed_as("pictures"))
    paths: Input[None]


@dataclass(frozen=True)
class EmbedParams(ManifestFormat):
    """What changes the output."""

    precision: str = option(
        "auto",
        help="Number format of the student's matrix products; auto: bf16 where the device has it, else fp32.",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    embedding_dtype: str = option(
        "float16", help="Number format that is stored; float16 halves the disk.", choices=("float16", "float32")
    )
    normalize: bool = option(False, help="Scale each embedding to unit length, for indexes that do not do so.")
    shard_rows: int = option(
        8192,
        help="Images in one shard file: what an interrupted run loses at most.",
        check=Check("be a positive multiple of 256", lambda rows: rows > 0 and rows % 256 == 0),
    )


@dataclass(frozen=True)
class EmbedRuntime:
    """What changes only how fast or where it runs; not hashed."""

    device: str = option("auto", help="Where the student runs: auto, cpu, cuda, ...")
    workers: int = option(
        -1,
        help="Processes that read images; fewer where batches are large. -1: one less than the cores, at most 8.",
    )
    batch_size: int = option(256, help="Images embedded at a time.", check=POSITIVE)
    max_bad_fraction: float = option(0.01, help="Unreadable images beyond this share stop the stage.", check=FRACTION)
