"""What outcomes come to: the metrics that reports and comparisons make of single images and captions."""

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
        name: as reports call the measure: ``recall@10``, ``median_rank``, ``mean_per_class``.
        kind: what is made of the values; "class_mean" is the mean over classes of the mean within each.
        values: of every query, in the metric's unit: percentages, or ranks.
        groups: the image that each value belongs to, or in a class mean the class of each image.

    Shapes:
        values: (queries,), float64; groups: (queries,), int64, from 0.
    """

    name: str
    kind: Literal["mean", "median", "class_mean"]
    values: Values
    groups: Places

    @property
    def num_pictures(self) -> int:
        """How many images are drawn from."""
        return len(self.values) if self.kind == "class_mean" else int(self.groups.max()) + 1

    def estimate(self) -> float:
        """The metric of the set as it is."""
        if self.kind == "median":
            return float(np.median(self.values))
        if self.kind == "class_mean":
            return float(self.values @ class_weights(self.groups))
        return float(self.values.mean())

    def replicates(self, *, seed: int, num_resamples: int) -> Values:
        """The metric of every resample of images; one seed draws the same images for means and medians.

        Shapes:
            returns: (num_resamples,), float64.
        """
        draws = {"seed": seed, "num_resamples": num_resamples}
        if self.kind == "class_mean":
            return class_mean_replicates(self.values, labels=self.groups, **draws)
        resample = median_replicates if self.kind == "median" else mean_replicates
        return resample(self.values, groups=self.groups, **draws)


def statistics(found: QueryResults) -> Iterator[Statistic]:
    """Name the metrics of a task on a set: 100 times the means of measures, the median of ranks, and the class mean.

    ``mean_per_class``, the mean of the ``top1`` of the classes that have images, comes last, where there are labels.
    """
    images = group_places(found.images)
    for measure, values in found.measures.items():
        if measure == RANK:
            yield Statistic("median_rank", "median", values, images)
        else:
            yield Statistic(measure, "mean", 100 * values, images)
    if "top1" in found.measures and len(found.labels):
        yield Statistic("mean_per_class", "class_mean", 100 * found.measures["top1"], group_places(found.labels))


class Summary(NamedTuple):
    """Metrics of a task on a set, and their intervals under the same names."""

    metrics: dict[str, float]
    intervals: dict[str, Interval]


def summarise(found: QueryResults, *, seed: int, num_resamples: int) -> Summary:
    """Give the metrics of a task on a set, and the 95 % bootstrap interval of each, over images.

    Args:
        found: what every single query came to.
        seed: of the draws.
        num_resamples: how many sets are drawn.
    """
    summary = Summary({}, {})
    for each in statistics(found):
        summary.metrics[each.name] = each.estimate()
        replicates = each.replicates(seed=seed, num_resamples=num_resamples)
        summary.intervals[each.name] = percentile_interval(replicates, num_pictures=each.num_pictures)
    return summary


def mean_interval(parts: Sequence[Statistic], *, seed: int, num_resamples: int) -> Interval:
    """Give the 95 % bootstrap interval of the mean of several metrics of the same images, which are drawn for all."""
    replicates = [part.replicates(seed=seed, num_resamples=num_resamples) for part in parts]
    return percentile_interval(np.mean(replicates, axis=0), num_pictures=parts[0].num_pictures)
