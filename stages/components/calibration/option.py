"""The option --calibrate, which several commands have."""

from collections.abc import Sequence
from typing import Any

from data_schemas.calibration import CALIBRATIONS, NONE
from pipeline.options.declaration import option


def calibrate_option(text: str, *, choices: Sequence[str] = CALIBRATIONS) -> Any:
    """Declare the option --calibrate, which stages gained later.

    Args:
        text: What it does here.
        choices: Calibrations that can be chosen.
    """
    return option(NONE, help=text, choices=choices, later=True)
