"""The result of a task on a set: its entry in the report, and the outcome of every single image or caption."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data_schemas.evaluation_report import metric_prefix
from data_schemas.manifest import Rejection
from data_schemas.per_query_results import QueryResults
from stages.evaluate.statistics.bootstrap import Interval


@dataclass(frozen=True, eq=False)
class TaskResult:
    """The result of a task on a set.

    Args:
        entry: Entry in the report, as JSON: name, task, sizes and settings, metrics, and intervals and chance under
            the same keys as far as there are any.
        outcomes: Outcomes of single queries, where the metrics are computed from them.
    """

    entry: dict[str, Any]
    outcomes: tuple[QueryResults, ...] = ()

    @property
    def prefix(self) -> str:
        """Prefix of each measure in flat names."""
        return metric_prefix(self.entry)

    def flat(self) -> dict[str, float]:
        """Name metrics by set, task or direction, measure: ``test/text_to_image/recall@10``, ``cifar10/knn/top1``."""
        return {f"{self.prefix}/{key}": value for key, value in self.entry["metrics"].items()}


def rejected(*rejections: Rejection) -> dict[str, Any]:
    """Describe for an entry how many rows or images were rejected, and the reason of the first."""
    first = f"{rejections[0].value}: {rejections[0].reason}" if rejections else ""
    return {"rejected": len(rejections), "first_rejected": first}


def as_json(intervals: Mapping[str, Interval]) -> dict[str, dict[str, float]]:
    """Convert intervals to the form of an entry: low, high and num_pictures of each."""
    return {name: interval._asdict() for name, interval in intervals.items()}
