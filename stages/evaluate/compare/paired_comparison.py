"""Two students on the same images: how far apart they are, how sure that is, and whether chance explains it."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np

from data_schemas.errors import ProtoRKDError
from data_schemas.per_query_results import QueryResults
from pipeline.log import log
from stages.evaluate.statistics.bootstrap import (
    NUM_RESAMPLES,
    Interval,
    Places,
    Values,
    class_mean_replicates,
    class_weights,
    mean_replicates,
    median_replicates,
    percentile_interval,
)
from stages.evaluate.statistics.permutation_test import NUM_PERMUTATIONS, sign_flip_p_value, swap_p_value
from stages.evaluate.statistics.summary import statistics


@dataclass(frozen=True)
class Difference:
    """A metric of two students on the same images.

    Args:
        name: of the metric, as reports have it: ``cifar10/zero_shot/top1``.
        first: the metric of student A.
        second: the metric of student B.
        interval: 95 % of ``difference``, by the paired bootstrap: both students on the same resamples.
        p_value: how often a difference of this size or more, in either direction, comes about where it is a toss-up on
            each image which student gave which answer. By random tosses it is never below 1 / (tosses + 1).
    """

    name: str
    first: float
    second: float
    interval: Interval
    p_value: float

    @property
    def difference(self) -> float:
        """B - A in the metric's unit: percentage points, or ranks."""
        return self.second - self.first


@dataclass(frozen=True)
class Draws:
    """How much is drawn.

    Args:
        seed: of resamples and of permutations.
        num_resamples: for the interval.
        num_permutations: for a p-value that is not exact.
    """

    seed: int = 0
    num_resamples: int = NUM_RESAMPLES
    num_permutations: int = NUM_PERMUTATIONS


def compare_outcomes(
    first: Sequence[QueryResults], second: Sequence[QueryResults], *, draws: Draws | None = None
) -> list[Difference]:
    """Compare two evaluations in every metric of the sets and tasks that both have.

    Measures are summed up as in reports: 100 times the mean, the median of ranks, and ``mean_per_class`` from the
    ``top1`` of labelled images. A task that only one evaluation has is logged and left out.

    Args:
        first: of student A.
        second: of student B.
        draws: how much is drawn, and the seed.

    Raises:
        ProtoRKDError: they share no set and task, or one whose images, captions, labels or measures differ.
    """
    theirs = {found.name: found for found in second}
    ours = {found.name for found in first}
    for name in sorted(ours ^ theirs.keys()):
        log.info("comparison: %s is left out: only one of the two evaluations has it", name)
    if not ours & theirs.keys():
        raise ProtoRKDError(
            f"Two evaluations must share a set and a task to be compared; got {sorted(ours)} and {sorted(theirs)}. "
            "Evaluate both students on the same sets."
        )
    pairs = (_align(found, theirs[found.name]) for found in first if found.name in theirs)
    return [difference for pair in pairs for difference in _compare(*pair, draws or Draws())]


def compare_means(
    name: str, *, first: Values, second: Values, groups: Places | None = None, draws: Draws
) -> Difference:
    """Compare means of paired values; the p-value is by sign flips, which for right and wrong is exact McNemar.

    Args:
        name: of the metric.
        first: values of student A.
        second: values of student B, of the same queries.
        groups: image of each value, from `group_places`, where an image has several; None where each has one.
        draws: how much is drawn.

    Shapes:
        first, second: (values,), float64; groups: (values,), int64.
    """
    gain = second - first
    replicates = mean_replicates(gain, groups=groups, seed=draws.seed, num_resamples=draws.num_resamples)
    gains = gain if groups is None else np.bincount(groups, weights=gain).astype(np.float64)
    interval = percentile_interval(replicates, num_pictures=len(gains))
    p_value = sign_flip_p_value(gains, seed=draws.seed, num_permutations=draws.num_permutations)
    return Difference(name, float(first.mean()), float(second.mean()), interval, p_value)


def compare_class_means(name: str, *, first: Values, second: Values, labels: Places, draws: Draws) -> Difference:
    """Compare means over classes of the mean within each; arguments as of `compare_means`, with a label an image."""
    weights = class_weights(labels)
    gain = second - first
    replicates = class_mean_replicates(gain, labels=labels, seed=draws.seed, num_resamples=draws.num_resamples)
    interval = percentile_interval(replicates, num_pictures=len(gain))
    p_value = sign_flip_p_value(gain * weights, seed=draws.seed, num_permutations=draws.num_permutations)
    return Difference(name, float(first @ weights), float(second @ weights), interval, p_value)


def compare_medians(
    name: str, *, first: Values, second: Values, groups: Places | None = None, draws: Draws
) -> Difference:
    """Compare medians of paired values; in the p-value, the two students' values of an image change places."""
    places = np.arange(len(first)) if groups is None else groups
    replicates = [
        median_replicates(values, groups=groups, seed=draws.seed, num_resamples=draws.num_resamples)
        for values in (first, second)
    ]
    num_pictures = len(np.unique(places))
    interval = percentile_interval(replicates[1] - replicates[0], num_pictures=num_pictures)
    medians = float(np.median(first)), float(np.median(second))
    p_value = swap_p_value(
        first=first, second=second, groups=places, seed=draws.seed, num_permutations=draws.num_permutations
    )
    return Difference(name, *medians, interval, p_value)


def _compare(first: QueryResults, second: QueryResults, draws: Draws) -> Iterator[Difference]:
    for ours, theirs in zip(statistics(first), statistics(second), strict=True):
        name = f"{first.name}/{ours.name}"
        pair = {"first": ours.values, "second": theirs.values}
        if ours.kind == "median":
            yield compare_medians(name, **pair, groups=ours.groups, draws=draws)
        elif ours.kind == "class_mean":
            yield compare_class_means(name, **pair, labels=ours.groups, draws=draws)
        else:
            yield compare_means(name, **pair, groups=ours.groups, draws=draws)


def _align(first: QueryResults, second: QueryResults) -> tuple[QueryResults, QueryResults]:
    """Bring both into one order, that of images and queries."""
    rows = [_keys(found) for found in (first, second)]
    alone = [sorted((Counter(own) - Counter(other)).elements()) for own, other in (rows, rows[::-1])]
    if any(alone):
        found = " and ".join(
            f"{len(keys)} in the {which} alone, first {': '.join(filter(None, keys[0]))!r}"
            for which, keys in zip(("first", "second"), alone, strict=True)
            if keys
        )
        raise ProtoRKDError(
            f"Two evaluations must hold the same images and captions of {first.name} to be compared; got {found}. "
            "Evaluate both students on one set."
        )
    if first.measures.keys() != second.measures.keys():
        raise ProtoRKDError(
            f"Two evaluations must have the same measures of {first.name} to be compared; got {sorted(first.measures)} "
            f"and {sorted(second.measures)}. Evaluate both students with the same options."
        )
    ordered = [
        _reordered(found, sorted(range(len(own)), key=own.__getitem__))
        for found, own in zip((first, second), rows, strict=True)
    ]
    _check_labels(*ordered)
    return ordered[0], ordered[1]


def _keys(found: QueryResults) -> list[tuple[str, str]]:
    return list(zip(found.images, found.queries or [""] * len(found.images), strict=True))


def _reordered(found: QueryResults, order: list[int]) -> QueryResults:
    return replace(
        found,
        images=[found.images[row] for row in order],
        queries=[found.queries[row] for row in order if len(found.queries)],
        labels=[found.labels[row] for row in order if len(found.labels)],
        predicted=[found.predicted[row] for row in order if len(found.predicted)],
        measures={name: values[order] for name, values in found.measures.items()},
    )


def _check_labels(first: QueryResults, second: QueryResults) -> None:
    for image, ours, theirs in zip(first.images, first.labels, second.labels, strict=False):
        if ours != theirs:
            raise ProtoRKDError(
                f"Two evaluations must give a picture of {first.name} one label to be compared; got {ours} and "
                f"{theirs} for {image}. Evaluate both students on one set."
            )
