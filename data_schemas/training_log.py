"""``logs/metrics.jsonl``: the numbers of a training, a line of JSON every so many steps and after every epoch.

A line has ``step`` and ``epoch``, and numbers by name: of training ``loss``, its parts, ``lr`` and speed, of validation
``validation/...``. One that was not finite is null.
"""

import json
import math
from collections.abc import Sequence

from data_schemas.artifact_record import LOG_FOLDER

METRICS_NAME = "metrics.jsonl"
TRAINING_LOG = f"{LOG_FOLDER}/{METRICS_NAME}"

Curve = list[tuple[float, float]]
"""Points of a curve, (epoch, value)."""


def read_training_log(data: bytes) -> list[dict[str, float]]:
    """Read the lines of a training's log; one that a kill has torn is left out, and so are numbers that are null.

    Args:
        data: Content of the file.
    """
    lines = []
    for text in data.decode(errors="replace").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue
        if isinstance(line, dict):
            lines.append({name: value for name, value in line.items() if _is_number(value)})
    return lines


def curve_of(lines: Sequence[dict[str, float]], name: str) -> Curve:
    """Return one number over the epochs, from the lines that have it."""
    return [(line["epoch"], line[name]) for line in lines if name in line and "epoch" in line]


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
