"""The report of an evaluation on disk: what was measured on which set, with chance beside it, in JSON."""

from pathlib import Path
from typing import Any

from data_schemas.errors import ProtoRKDError
from data_schemas.files import read_json, write_json

REPORT_NAME = "report.json"
PAGE_NAME = "report.html"
SCHEMA_VERSION = 1

_KEYS = {"student", "teacher", "sets", "metrics"}
_SET_KEYS = {"name", "task", "num_images", "rejected", "metrics", "chance"}


def write_report(root: Path, report: dict[str, Any]) -> None:
    """Write ``report.json`` into an artifact's folder.

    Args:
        root: the artifact's folder.
        report: ``student`` and ``teacher`` (what they are), ``sets`` (one entry a task and set: name, task, sizes,
            metrics and chance under the same keys) and ``metrics`` (flat: set, direction and measure; percentages from
            0 to 100, ranks from 1). The schema's version is added.
    """
    write_json(root / REPORT_NAME, {"schema_version": SCHEMA_VERSION, **report})


def read_report(root: Path) -> dict[str, Any]:
    """Read ``report.json`` from an artifact's folder.

    Raises:
        ProtoRKDError: it is missing, damaged or of a newer kind.
    """
    path = root / REPORT_NAME
    report = read_json(path)
    if not isinstance(report, dict) or not report.keys() >= _KEYS:
        raise ProtoRKDError(f"{path} must be an evaluation's report; it lacks some of {sorted(_KEYS)}.")
    if report["schema_version"] > SCHEMA_VERSION:
        raise ProtoRKDError(f"{path} must be of schema version {SCHEMA_VERSION} or older; use a newer protorkd.")
    for entry in report["sets"]:
        if not entry.keys() >= _SET_KEYS:
            raise ProtoRKDError(f"{path} must tell of every set {sorted(_SET_KEYS)}; got {sorted(entry)}.")
    return report
