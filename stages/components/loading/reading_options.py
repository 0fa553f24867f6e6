"""Options of a pass over images: how many processes read, how many images at a time, how many may be bad."""

from dataclasses import dataclass

from pipeline.options.declaration import FRACTION, POSITIVE, option


@dataclass(frozen=True)
class ReadingOptions:
    """How images are read; not hashed."""

    workers: int = option(
        -1,
        help="Processes that read images; fewer where batches are large. -1: one less than the cores, at most 8.",
    )
    batch_size: int = option(256, help="Images embedded at a time.", check=POSITIVE)
    max_bad_fraction: float = option(0.01, help="Unreadable images beyond this share stop the stage.", check=FRACTION)
