"""Sum up outcomes of single images and captions as the metrics of reports and comparisons."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from data_schemas.per_query_results import RANK, QueryResults
from stages.evaluate.statistics.bootstrap import (
    Interval,
    Places,
    Values,
    class_mean_replicates,
    class_weights,
    group_places,
    mean_replicates,
    median_replicates,
    percentile_interval,
)


@dataclass(frozen=True, eq=False)
class Statistic:
    """One metric of a task on a set.

    Args:
        name: Name of the measure in reports: ``recall@10``, ``median_rank``, ``mean_per_class``.
        kind: How the values are summed up; "class_mean" is the mean over classes of the mean within each.
        values: Value of every query, in the metric's unit: percentages, or ranks.
        groups: Image that each value belongs to; in a class mean the class of each image.

    Shapes:
        values: (queries,), float64; groups: (queries,), int64, from 0.
    """

    name: str
    kind: Literal["mean", "median", "class_mean"]
    values: Values
    groups: Places

    @property
    def num_pictures(self) -> int:
        """Number of images that resamples draw from."""
        return len(self.values) if self.kind == "class_mean" else int(self.groups.max()) + 1

    def estimate(self) -> float:
        """Compute the metric of the set itself."""
        if self.kind == "median":
            return float(np.median(self.values))
        if self.kind == "class_mean":
            return float(self.values @ class_weights(self.groups))
        return float(self.values.mean())

    def replicates(self, *, seed: int, num_resamples: int) -> Values:
        """Compute the metric of every resample of images; one seed draws the same images for means and medians.

        Shapes:
            returns: (num_resamples,), float64.
        """
        draws = {"seed": seed, "num_resamples": num_resamples}
        if self.kind == "class_mean":
            return class_mean_replicates(self.values, labels=self.groups, **draws)
        resample = median_replicates if self.kind == "median" else mean_replicates
        return resample(self.values, groups=self.groups, **draws)


def statistics(outcomes: QueryResults) -> Iterator[Statistic]:
    """Yield the metrics of a task on a set: 100 times the means of measures, the median of ranks, and the class mean.

    ``mean_per_class``, the mean of ``top1`` over the classes that have images, comes last, where there are labels.
    """
    images = group_places(outcomes.images)
    for measure, values in outcomes.measures.items():
        if measure == RANK:
            yield Statistic("median_rank", "median", values, images)
        else:
            yield Statistic(measure, "mean", 100 * values, images)
    if "top1" in outcomes.measures and len(outcomes.labels):
        yield Statistic("mean_per_class", "class_mean", 100 * outcomes.measures["top1"], group_places(outcomes.labels))


class Summary(NamedTuple):
    """Metrics of a task on a set, and their intervals under the same names."""

    metrics: dict[str, float]
    intervals: dict[str, Interval]


def summarise(outcomes: QueryResults, *, seed: int, num_resamples: int) -> Summary:
    """Give the metrics of a task on a set, and the 95 % bootstrap interval of each, over images.

    Args:
        outcomes: Outcome of every single query.
        seed: Seed of the resamples.
        num_resamples: Number of sets that are drawn.
    """
    summary = Summary({}, {})
    for each in statistics(outcomes):
        summary.metrics[each.name] = each.estimate()
        replicates = each.replicates(seed=seed, num_resamples=num_resamples)
        summary.intervals[each.name] = percentile_interval(replicates, num_pictures=each.num_pictures)
    return summary


def mean_interval(parts: Sequence[Statistic], *, seed: int, num_resamples: int) -> Interval:
    """Give the 95 % bootstrap interval of the mean of several metrics, measured on the same resamples of images."""
    replicates = [part.replicates(seed=seed, num_resamples=num_resamples) for part in parts]
    return percentile_interval(np.mean(replicates, axis=0), num_pictures=parts[0].num_pictures)
