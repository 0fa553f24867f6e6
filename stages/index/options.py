"""Options of index: what is hashed, where inputs lie and what is found there, and how it runs."""

from dataclasses import dataclass

from data_schemas.calibration import NONE, QUERY_BANK
from pipeline.options.declaration import FRACTION, NOT_NEGATIVE, option
from pipeline.stage import Input
from pipeline.store.store import Artifact
from stages.components.calibration.calibration import CalibrationSource
from stages.components.calibration.option import calibrate_option


@dataclass(frozen=True)
class IndexInputs:
    """Where the inputs lie; hashed by content."""

    rows: str | None = option(
        None,
        flag="in",
        help="Artifact of embed or encode-teacher, by fingerprint or path. Default: the newest of embed, or else of "
        "encode-teacher.",
        metavar="REF",
        artifact="embed",
    )


@dataclass(frozen=True)
class IndexSources:
    """What the inputs lead to, identified by content.

    Args:
        rows: Artifact whose rows are indexed.
        calibration: Query bank that is written into rows of images; None where they are indexed as they are.
    """

    rows: Input[Artifact]
    calibration: Input[CalibrationSource] | None = None


@dataclass(frozen=True)
class IndexParams:
    """What changes the output."""

    max_exact_rows: int = option(
        400_000,
        help="Up to so many rows a query is compared with each. More are divided into lists, the nearest of which are "
        "looked into.",
        check=NOT_NEGATIVE,
    )
    recall: float = option(
        0.95, help="Share of the ten nearest rows that lists must find, over a sample of rows.", check=FRACTION
    )
    seed: int = option(0, help="Seed of the lists.", check=NOT_NEGATIVE)
    calibrate: str = calibrate_option(
        "Calibration of images' scores; query-bank takes off each image's how near it is to every caption of its "
        "student's training, and queries end in 1 then.",
        choices=(NONE, QUERY_BANK),
    )


@dataclass(frozen=True)
class IndexRuntime:
    """What changes only how fast or where it runs; not hashed."""
