"""Options of report: what is hashed, where inputs lie and what is found there, and how it runs."""

from dataclasses import dataclass
from pathlib import Path

from pipeline.options.declaration import FRACTION, NOT_NEGATIVE, POSITIVE, Check, option
from pipeline.stage import Input
from pipeline.store.store import Artifact
from stages.components.teacher.identity import TeacherSource, trust_option
from stages.report.images import ImageFolder

NEWEST = "newest"
COSINE = Check("lie between -1 and 1", lambda value: -1 <= value <= 1)


@dataclass(frozen=True)
class ReportInputs:
    """Where the inputs lie; hashed by content."""

    embeddings: str | None = option(
        None,
        help="Artifact of encode-teacher, by fingerprint or path. Default: the newest.",
        metavar="REF",
        artifact="encode-teacher",
    )
    features: str | None = option(
        None,
        help="Artifact of encode-images, by fingerprint or path, or newest: its features of the pairs' images are "
        "compared with the captions. Default: captions alone.",
        metavar="REF",
        artifact="encode-images",
    )
    prototypes: str | None = option(
        None,
        help="Artifact of prototypes of the same captions, whose balance is reported. Default: nothing of it.",
        metavar="REF",
        artifact="prototypes",
    )
    queries: Path | None = option(
        None,
        help="Text file with a class name or a query a line: the report says how many captions lie near each. The "
        "teacher embeds them.",
        metavar="FILE",
    )
    teacher: str | None = option(
        None,
        help="The captions' teacher, for --queries. Default: where encode-teacher found it.",
        metavar="NAME_OR_PATH",
    )
    trust_remote_code: bool = trust_option()
    image_root: Path | None = option(
        None,
        help="Folder that relative image paths start from, for the images on the page. Default: the manifest's.",
        metavar="FOLDER",
    )
    allow_outside: bool = option(False, help="Let image paths lead out of their folder: the manifest is trusted.")


@dataclass(frozen=True)
class ReportSources:
    """What the inputs lead to, identified by content.

    Args:
        embeddings: Artifact of encode-teacher.
        features: Artifact of encode-images; None for captions alone.
        prototypes: Artifact of prototypes of the same captions; None without.
        queries: Class names or queries; None without.
        teacher: Teacher that embeds the queries; None without them.
        images: Folder of the images that the page shows; None for captions alone.
    """

    embeddings: Input[Artifact]
    features: Input[Artifact] | None
    prototypes: Input[Artifact] | None
    queries: Input[tuple[str, ...]] | None
    teacher: Input[TeacherSource] | None
    images: Input[ImageFolder] | None


@dataclass(frozen=True)
class ReportParams:
    """What changes the output."""

    false_negative_cosine: float = option(
        0.7,
        help="Cosine with the own caption from which another caption in the batch is a false negative.",
        check=COSINE,
    )
    near_duplicate_cosine: float = option(
        0.95, help="Cosine from which two captions are near-duplicates.", check=COSINE
    )
    coverage_cosine: float = option(0.5, help="Cosine from which a caption is near a query of --queries.", check=COSINE)
    num_neighbours: int = option(
        10, help="Neighbours of each image that captions and features are compared by.", check=POSITIVE
    )
    sample_size: int = option(
        2000, help="Most pairs that are compared with all others, and with one another.", check=POSITIVE
    )
    ridge_pairs: int = option(
        100_000, help="Most pairs, each of another image, that the ridge baseline is fitted on.", check=POSITIVE
    )
    graph_captions: int = option(
        100_000,
        help="Largest number of captions of which all near-duplicates are looked for, in the graph of their "
        "neighbours; beyond it they are estimated from the sample.",
        check=NOT_NEGATIVE,
    )
    seed: int = option(
        0,
        help="Seed of the samples and of the pairs that are held out.",
        check=Check("lie between 0 and 2147483647", lambda seed: 0 <= seed < 1 << 31),
    )


@dataclass(frozen=True)
class ReportRuntime:
    """What changes only how fast or where it runs; not hashed."""

    device: str = option("auto", help="Where vectors are compared: auto, cpu, cuda, ...")
    max_bad_fraction: float = option(
        0.01, help="Images without features beyond this share of the pairs stop the stage.", check=FRACTION
    )
