"""The report of an evaluation on disk, in JSON: what was measured on which set, how sure that is, and what failed.

Metrics are called ``<set>/<task>/<measure>``, or ``<set>/<measure>`` for retrieval, such as
``test/text_to_image/recall@10``; accuracies and recalls are percentages from 0 to 100, ranks count from 1.

The report:
    student: ``fingerprint`` of its artifact, ``checkpoint``, what it is (``backbone``, ``losses``, ...), and the
        ``precision`` that it embedded the images in.
    teacher: ``name``, ``identity``, ``dim`` and ``recipe``.
    sets: an entry for each set and task of the last checkpoint.
    metrics: all metrics of the last checkpoint, by name.
    checkpoints: ``name``, ``epoch`` (null where unknown) and ``metrics`` of each, in order of epoch.
    failures: ``name`` (of the set), ``task``, ``checkpoint`` and ``reason`` of each task that could not be done.
    absent: ``name``, ``places`` and ``reason`` of each set that was looked for and is not there.
    overlap: ``name`` of each set and what it shares with the training images: ``num_evaluation``, ``num_training``,
        ``num_exact``, ``num_near``, ``num_featureless``, and as ``pairs`` the first of them, each with ``evaluation``,
        ``training``, ``exact`` and ``distance``.

An entry:
    name, task: name of the set; retrieval, zero_shot, knn, ...
    num_images or num_pairs: how many images, or pairs of captions, were measured; other sizes are also ``num_x``.
    rejected, first_rejected: how many images or rows were left out, and the first of them with its reason.
    metrics: measure to value.
    intervals: measure to ``low`` and ``high`` (95 %) and ``num_pictures`` (or ``num_pairs``), where a measure has one.
    chance: measure to what guessing gives, where that is known.
    any other key: a setting of the task, such as ``k`` or ``templates``.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_schemas.errors import ProtoRKDError
from data_schemas.files import read_json, write_json

REPORT_NAME = "report.json"
SCHEMA_VERSION = 2
LAST = "last"
RETRIEVAL = "retrieval"

_OBJECTS: dict[str, set[str]] = {
    "student": {"fingerprint", "checkpoint", "backbone"},
    "teacher": {"name"},
    "metrics": set(),
}
_LISTS = {
    "sets": {"name", "task", "rejected", "metrics", "intervals", "chance"},
    "checkpoints": {"name", "epoch", "metrics"},
    "failures": {"name", "task", "checkpoint", "reason"},
    "absent": {"name", "places", "reason"},
    "overlap": {"name", "num_evaluation", "num_training", "num_exact", "num_near", "num_featureless", "pairs"},
}
_SIZES = ("num_images", "num_pairs")
_MEASURES = ("metrics", "intervals", "chance")
_ADVICE = "Run evaluate again with the same options."


def write_report(root: Path, report: dict[str, Any]) -> None:
    """Write ``report.json`` into an artifact's folder.

    Args:
        root: The artifact's folder.
        report: The report as described above; the schema's version is added.
    """
    write_json(root / REPORT_NAME, {"schema_version": SCHEMA_VERSION, **report})


def read_report(root: Path) -> dict[str, Any]:
    """Read ``report.json`` from an artifact's folder, and fill in the keys that a report of version 1 lacks.

    Raises:
        ProtoRKDError: it is missing, damaged or of a newer kind.
    """
    path = root / REPORT_NAME
    return parse_report(read_json(path), path)


def parse_report(report: Any, path: Path) -> dict[str, Any]:
    """Check a report, and fill in the keys that one of version 1 lacks.

    Args:
        report: The parsed JSON.
        path: Path of its file, for messages.

    Raises:
        ProtoRKDError: it is damaged or of a newer kind.
    """
    version = report.get("schema_version") if isinstance(report, dict) else None
    if not isinstance(version, int):
        raise ProtoRKDError(f"{path} must be an evaluation's report; it has no schema_version. {_ADVICE}")
    if version > SCHEMA_VERSION:
        raise ProtoRKDError(
            f"{path} must be of schema version {SCHEMA_VERSION} or older; got {version}. Use a newer protorkd."
        )
    filled: dict[str, Any] = _filled_in(report) if version == 1 else report
    _check_report(filled, path)
    return filled


def interval_size(interval: Mapping[str, float]) -> int:
    """Return how many images, or pairs of captions, an interval rests on."""
    return int(interval.get("num_pictures", interval.get("num_pairs", 0)))


def metric_prefix(entry: Mapping[str, Any]) -> str:
    """Return the prefix of an entry's metrics: ``cifar10/zero_shot``, or for retrieval the set alone."""
    name = str(entry["name"])
    return name if entry["task"] == RETRIEVAL else f"{name}/{entry['task']}"


def _filled_in(report: dict[str, Any]) -> dict[str, Any]:
    """Fill in what version 1 lacked: it told of one checkpoint, without intervals, failures and overlap."""
    filled = {
        "checkpoints": [{"name": LAST, "epoch": None, "metrics": report.get("metrics", {})}],
        **{key: [] for key in ("failures", "absent", "overlap")},
        **report,
        "schema_version": SCHEMA_VERSION,
    }
    if isinstance(report.get("student"), dict):
        filled["student"] = {"checkpoint": LAST, **report["student"]}
    if isinstance(report.get("sets"), list):
        filled["sets"] = [{"intervals": {}, **entry} if isinstance(entry, dict) else entry for entry in report["sets"]]
    return filled


def _check_report(report: dict[str, Any], path: Path) -> None:
    for key, wanted in _OBJECTS.items():
        _check_kind(report, key, dict, path)
        if not report[key].keys() >= wanted:
            raise ProtoRKDError(f"{path}: {key} must have {sorted(wanted)}; got {sorted(report[key])}. {_ADVICE}")
    for key, wanted in _LISTS.items():
        _check_kind(report, key, list, path)
        for place, element in enumerate(report[key]):
            if not isinstance(element, dict) or not element.keys() >= wanted:
                got = sorted(element) if isinstance(element, dict) else repr(element)[:60]
                raise ProtoRKDError(f"{path}: {key}[{place}] must have {sorted(wanted)}; got {got}. {_ADVICE}")
            for measures in wanted.intersection(_MEASURES):
                _check_kind(element, measures, dict, path, f"{key}[{place}].")
    for place, entry in enumerate(report["sets"]):
        if not entry.keys() & _SIZES:
            raise ProtoRKDError(
                f"{path}: sets[{place}] must have one of {', '.join(_SIZES)}; got {sorted(entry)}. {_ADVICE}"
            )


def _check_kind(parent: dict[str, Any], key: str, kind: type, path: Path, above: str = "") -> None:
    if not isinstance(parent.get(key), kind):
        rule, got = "an object" if kind is dict else "a list", repr(parent[key])[:60] if key in parent else "nothing"
        raise ProtoRKDError(f"{path}: {above}{key} must be {rule}; got {got}. {_ADVICE}")
