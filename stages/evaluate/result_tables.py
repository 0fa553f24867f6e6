"""Make tables for other programs: CSV with a row per checkpoint, and CLIP_benchmark's JSON lines per set and task.

They depend on the report and its entries alone, whatever the order of keys in either.
"""

import csv
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from data_schemas.evaluation_report import RETRIEVAL, metric_prefix
from pipeline.results.formats import guarded

METRICS_TABLE_NAME = "evaluation_metrics_all.csv"
RESULTS_NAME = "results.jsonl"

Entry = Mapping[str, Any]

_ACCURACIES = {"top1": "acc1", "top5": "acc5", "mean_per_class": "mean_per_class_recall"}
_PROBE_ACCURACIES = {measure: f"lp_{name}" for measure, name in _ACCURACIES.items()}
_RECALLS = {
    f"{direction}/recall@{k}": f"{target}_retrieval_recall@{k}"
    for direction, target in (("text_to_image", "image"), ("image_to_text", "text"))
    for k in (1, 5, 10)
}
# CLIP_benchmark's names of tasks and measures; a task that it lacks keeps our name, with measures of a similar task.
_TASKS = {
    "zero_shot": ("zeroshot_classification", _ACCURACIES),
    RETRIEVAL: ("zeroshot_retrieval", _RECALLS),
    "linear_probe": ("linear_probe", _PROBE_ACCURACIES),
    "linear_probe_backbone": ("linear_probe_backbone", _PROBE_ACCURACIES),
    "knn": ("knn", _ACCURACIES),
    "knn_backbone": ("knn_backbone", _ACCURACIES),
}
_NO_SETTINGS = {"name", "task", "rejected", "first_rejected", "metrics", "intervals", "chance"}


def metrics_table(report: Mapping[str, Any], entries: Mapping[str, Sequence[Entry]]) -> bytes:
    """Make ``evaluation_metrics_all.csv``: a row per checkpoint, a column per metric; empty where a task failed.

    After ``checkpoint`` and ``epoch`` come the metrics in the order of their names, recall@5 before recall@10, then the
    ends of their intervals as ``<metric>/low`` and ``<metric>/high``. A name that a spreadsheet would take for a
    formula begins with an apostrophe.

    Args:
        report: Report of the evaluation, from `read_report`.
        entries: Entries of each checkpoint, by its name: one per set and task.
    """
    intervals = {checkpoint["name"]: _intervals(entries[checkpoint["name"]]) for checkpoint in report["checkpoints"]}
    metrics = _in_order(name for checkpoint in report["checkpoints"] for name in checkpoint["metrics"])
    measured = _in_order(name for by_metric in intervals.values() for name in by_metric)
    ends = [(name, end) for name in measured for end in ("low", "high")]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow([guarded(name) for name in ("checkpoint", "epoch", *metrics, *(f"{n}/{end}" for n, end in ends))])
    for checkpoint in report["checkpoints"]:
        own = intervals[checkpoint["name"]]
        values = [checkpoint["metrics"].get(name) for name in metrics]
        writer.writerow(
            [
                guarded(checkpoint["name"]),
                checkpoint["epoch"],
                *values,
                *(own[name][end] if name in own else None for name, end in ends),
            ]
        )
    return text.getvalue().encode(errors="backslashreplace")  # a name may hold bytes that are not UTF-8


def result_lines(report: Mapping[str, Any], entries: Mapping[str, Sequence[Entry]]) -> bytes:
    """Make ``results.jsonl``: a line of JSON for every checkpoint, set and task that was measured.

    Each line by itself is a result file of CLIP_benchmark: ``dataset``, ``model`` (the backbone), ``pretrained``
    (student and checkpoint, as ``compare`` takes them), ``task``, ``language``, and ``metrics`` under its names as
    fractions from 0 to 1. Analyses that it lacks keep our measures and units. ``protorkd`` holds all that reports say
    about the entry, in their names and units.

    Args:
        report: Report of the evaluation, from `read_report`.
        entries: Entries of each checkpoint, by its name: one per set and task.
    """
    rows = (
        _result(report["student"], checkpoint, entry)
        for checkpoint in report["checkpoints"]
        for entry in entries[checkpoint["name"]]
    )
    return "".join(f"{json.dumps(row, sort_keys=True, allow_nan=False)}\n" for row in rows).encode()


def _result(student: Mapping[str, Any], checkpoint: Mapping[str, Any], entry: Entry) -> dict[str, Any]:
    task, names = _TASKS.get(entry["task"], (entry["task"], None))
    metrics = entry["metrics"]
    return {
        "dataset": entry["name"],
        "model": student["backbone"],
        "pretrained": f"{student['fingerprint'][:12]}@{checkpoint['name']}",
        "task": task,
        "metrics": (
            dict(metrics)
            if names is None
            else {name: metrics[measure] / 100 for measure, name in names.items() if measure in metrics}
        ),
        "language": "en",
        "protorkd": {
            "student": student["fingerprint"],
            "checkpoint": checkpoint["name"],
            "epoch": checkpoint["epoch"],
            "task": entry["task"],
            **{key: value for key, value in entry.items() if key.startswith("num_")},
            "rejected": entry["rejected"],
            "metrics": _flat(entry, "metrics"),
            "intervals": _flat(entry, "intervals"),
            "chance": _flat(entry, "chance"),
            "settings": {
                key: value for key, value in entry.items() if key not in _NO_SETTINGS and not key.startswith("num_")
            },
        },
    }


def _intervals(entries: Sequence[Entry]) -> dict[str, Mapping[str, float]]:
    return {name: interval for entry in entries for name, interval in _flat(entry, "intervals").items()}


def _flat(entry: Entry, key: str) -> dict[str, Any]:
    return {f"{metric_prefix(entry)}/{measure}": value for measure, value in entry[key].items()}


def _in_order(names: Iterable[str]) -> list[str]:
    """Sort distinct names, numbers in them by value."""
    return sorted(set(names), key=lambda name: (list(_parts(name)), name))


def _parts(name: str) -> Iterator[str | int]:
    for place, part in enumerate(re.split(r"(\d+)", name)):
        yield int(part) if place % 2 else part
