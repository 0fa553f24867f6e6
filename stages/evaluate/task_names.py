"""Names of the tasks: their groups on the command line, what each needs, and what it is judged by."""

from collections.abc import Mapping
from typing import Any

from data_schemas.calibration import MIXED, QUERY_BANK

RETRIEVAL_TASKS = ("retrieval", "geometry", "neighbourhoods")
CLASS_TASKS = ("zero_shot", "knn", "knn_backbone", "linear_probe", "linear_probe_backbone", "clustering")
STS_TASKS = ("sts",)
CALIBRATED_TASKS = {QUERY_BANK: "query_bank", MIXED: "mixed"}
"""Task that each value of ``--calibrate`` adds to sets of images with captions."""

TASK_GROUPS = {
    "retrieval": ("retrieval",),
    "zero-shot": ("zero_shot",),
    "knn": ("knn", "knn_backbone"),
    "linear-probe": ("linear_probe", "linear_probe_backbone"),
    "analysis": ("geometry", "neighbourhoods", "clustering", "sts"),
}
"""Values of ``--task``, and the tasks that each stands for."""

OPTION_TASKS = {
    "zero_shot": ("zero_shot", "clustering"),
    "knn": ("knn", "knn_backbone", "clustering"),
    "linear_probe": ("linear_probe", "linear_probe_backbone", "clustering"),
}
"""Tasks that the sets of an option are measured at."""

NEED_TRAIN = frozenset({"knn", "knn_backbone", "linear_probe", "linear_probe_backbone"})
NEED_TEACHER = frozenset({*RETRIEVAL_TASKS, *CALIBRATED_TASKS.values(), *STS_TASKS, "zero_shot"})


def headline(entry: Mapping[str, Any]) -> str:
    """Return the measure by which an entry of a report is usually judged."""
    if entry["task"] in ("retrieval", "query_bank"):
        return "mean_recall"
    wanted: str = entry.get("headline", "top1")
    return wanted if wanted in entry["metrics"] else "top1"


def wanted_tasks(groups: tuple[str, ...]) -> frozenset[str]:
    """List the tasks of these groups; of all groups where none is named."""
    return frozenset(task for group in groups or TASK_GROUPS for task in TASK_GROUPS[group])


def retrieval_tasks(wanted: frozenset[str], calibrate: tuple[str, ...]) -> tuple[str, ...]:
    """List the tasks that are wanted of images with captions, and those that calibrations add to retrieval."""
    added = [task for kind, task in CALIBRATED_TASKS.items() if kind in calibrate and "retrieval" in wanted]
    return (*choose(RETRIEVAL_TASKS, wanted), *added)


def choose(tasks: tuple[str, ...], wanted: frozenset[str]) -> tuple[str, ...]:
    """Choose the tasks that are wanted, in their order."""
    return tuple(task for task in tasks if task in wanted)
