"""What status and tables of results say of evaluations: the figures of the student that they measure."""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from data_schemas.evaluation_report import REPORT_NAME, metric_prefix, parse_report
from pipeline.results.figure import Figure
from pipeline.stage import Overview
from pipeline.store.store import Artifact
from stages.evaluate.task_names import CLASS_TASKS, RETRIEVAL_TASKS, STS_TASKS, headline

_ORDER = (*RETRIEVAL_TASKS, *CLASS_TASKS, *STS_TASKS)
_JUDGED = ("retrieval", "zero_shot", "knn", "knn_backbone", "linear_probe", "linear_probe_backbone")
_SIZES = ("num_images", "num_captions", "num_classes", "num_pairs")
_HIGHER = ("recall", "top1", "top5", "mean_per_class", "ari", "nmi", "spearman", "pearson", "accuracy")


def figures(artifact: Artifact, read: Callable[[str], bytes]) -> Mapping[str, Figure]:
    """Return the figures of the checkpoint that an evaluation shows in full, with their intervals, retrieval first."""
    path = artifact.path / REPORT_NAME
    report = parse_report(json.loads(read(REPORT_NAME)), path)
    entries = sorted(report["sets"], key=lambda entry: _ORDER.index(entry["task"]) if entry["task"] in _ORDER else 99)
    return {name: figure for entry in entries for name, figure in _figures(entry)}


def headline_of(metrics: Mapping[str, float]) -> str:
    """Choose the metric that a student is judged by from their names alone: retrieval before classification."""
    for end in ("/mean_recall", "/zero_shot/top1", "/knn/top1", "/linear_probe/top1"):
        for name in metrics:
            if name.endswith(end):
                return name
    return ""


def _figures(entry: Mapping[str, Any]) -> Iterator[tuple[str, Figure]]:
    shown = headline(entry) if entry["task"] in _JUDGED else ""
    measured_on = ", ".join(f"{entry[key]:,} {key[4:]}" for key in _SIZES if key in entry)
    for measure in sorted(entry["metrics"], key=lambda name: name != shown):  # stable: the headline first
        interval = entry["intervals"].get(measure, {})
        yield (
            f"{metric_prefix(entry)}/{measure}",
            Figure(
                value=entry["metrics"][measure],
                low=interval.get("low"),
                high=interval.get("high"),
                better=_better(measure),
                is_headline=measure == shown,
                measured_on=measured_on,
            ),
        )


def _better(measure: str) -> Any:
    name = measure.rpartition("/")[2]
    if name == "median_rank":
        return "lower"
    return "higher" if name.startswith(("recall@", *_HIGHER)) or name == "mean_recall" else ""


OVERVIEW = Overview(measures="student", headline=headline_of, figures=figures)
