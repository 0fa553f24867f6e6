"""Options of embed: what is hashed, where inputs lie and what is found there, and how it runs."""

from dataclasses import dataclass, field

from pipeline.options.declaration import Check, option
from pipeline.sources import hashed_as
from pipeline.stage import Input
from stages.components.calibration.calibration import CalibrationSource
from stages.components.calibration.option import calibrate_option
from stages.components.inputs.image_source import Images, PackableImageSource
from stages.components.inputs.manifest_options import ManifestFormat
from stages.components.loading.reading_options import ReadingOptions
from stages.components.student.checkpoints import StudentWeights


@dataclass(frozen=True)
class EmbedInputs(PackableImageSource):
    """Where the inputs lie; hashed by content."""

    student: str | None = option(
        None,
        help="Artifact of distill, by fingerprint or path; REF@epoch_3 takes a checkpoint. Default: the newest.",
        metavar="REF",
        artifact="distill",
    )


@dataclass(frozen=True)
class EmbedSources:
    """What the inputs lead to, identified by content.

    Args:
        student: Student that embeds the images.
        images: Images to embed.
        paths: Paths of the images, and where they were asked for.
        backbone: Frozen backbone of the student, whose features are embedded; None where it was trained whole.
        calibration: Calibration that is written into the rows; None where they are raw.
    """

    student: Input[StudentWeights]
    images: Input[Images] = field(metadata=hashed_as("pictures"))
    paths: Input[EmbedInputs]
    backbone: Input[None] | None = None
    calibration: Input[CalibrationSource] | None = None


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
    calibrate: str = calibrate_option(
        "One more number a row, behind unit length, for an index by inner product: query-bank takes off how near an "
        "image is to every caption; mixed puts images on the scale of captions. Queries of words end in 1, captions "
        "in 0."
    )
    shard_rows: int = option(
        8192,
        help="Images in one shard file: what an interrupted run loses at most.",
        check=Check("be a positive multiple of 256", lambda rows: rows > 0 and rows % 256 == 0),
    )


@dataclass(frozen=True)
class EmbedRuntime(ReadingOptions):
    """What changes only how fast or where it runs; not hashed."""

    device: str = option("auto", help="Where the student runs: auto, cpu, cuda, ...")
