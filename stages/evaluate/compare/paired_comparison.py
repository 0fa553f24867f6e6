"""Compare two students on the same images: their differences, with intervals and p-values."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

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
from stages.evaluate.statistics.summary import Statistic, statistics

DIRECTIONS = ("text_to_image", "image_to_text")
MEAN_RECALL = "mean_recall"

OutcomePair = tuple[QueryResults, QueryResults]
"""Outcomes of students A and B on one task and set, row by row of the same image and query."""


@dataclass(frozen=True)
class Difference:
    """A metric of two students on the same images.

    Args:
        name: Name of the metric in reports: ``cifar10/zero_shot/top1``.
        first: The metric of student A.
        second: The metric of student B.
        interval: 95 % interval of ``difference``, by the paired bootstrap: both students on the same resamples.
        p_value: How often a difference at least this large, in either direction, arises when the two students' answers
            to each image are swapped at random. With drawn permutations it is never below 1 / (permutations + 1).
    """

    name: str
    first: float
    second: float
    interval: Interval
    p_value: float

    @property
    def difference(self) -> float:
        """Difference B - A, in the metric's unit: percentage points, or ranks."""
        return self.second - self.first


@dataclass(frozen=True)
class Draws:
    """Seed and numbers of the random draws.

    Args:
        seed: Seed of the resamples and of the permutations.
        num_resamples: Number of resamples for an interval.
        num_permutations: Number of permutations for a p-value that is not exact.
    """

    seed: int = 0
    num_resamples: int = NUM_RESAMPLES
    num_permutations: int = NUM_PERMUTATIONS


def compare_outcomes(
    first: Sequence[QueryResults],
    second: Sequence[QueryResults],
    *,
    draws: Draws | None = None,
    metric: str | None = None,
) -> list[Difference]:
    """Compare two evaluations in every metric of the sets and tasks that both have.

    Metrics are computed as in reports: 100 times the mean, the median of ranks, ``mean_per_class`` from the ``top1`` of
    labelled images, and ``mean_recall`` of a set that both have both directions of. A task that only one evaluation has
    is logged and left out.

    Args:
        first: Outcomes of student A.
        second: Outcomes of student B.
        draws: Seed and numbers of the random draws; None for the defaults.
        metric: Name of the one metric to compare; None for all.

    Raises:
        ProtoRKDError: they share no set and task, or one whose images, captions, labels or measures differ.
    """
    draws = draws or Draws()
    comparisons = _comparisons(shared_outcomes(first, second), draws)
    return [compare() for name, compare in comparisons if metric in (None, name)]


def shared_outcomes(first: Sequence[QueryResults], second: Sequence[QueryResults]) -> list[OutcomePair]:
    """Pair the outcomes of two evaluations on the sets and tasks that both have, row by row.

    Raises:
        ProtoRKDError: as `compare_outcomes`.
    """
    theirs = {outcomes.name: outcomes for outcomes in second}
    ours = {outcomes.name for outcomes in first}
    for name in sorted(ours ^ theirs.keys()):
        log.info("comparison: %s is left out: only one of the two evaluations has it", name)
    if not ours & theirs.keys():
        raise ProtoRKDError(
            f"Two evaluations must share a set and a task to be compared; got {sorted(ours)} and {sorted(theirs)}. "
            "Evaluate both students on the same sets."
        )
    return [_align(outcomes, theirs[outcomes.name]) for outcomes in first if outcomes.name in theirs]


def compare_means(
    name: str, *, first: Values, second: Values, groups: Places | None = None, draws: Draws
) -> Difference:
    """Compare means of paired values; the p-value is by sign flips, for right and wrong the exact McNemar test.

    Args:
        name: Name of the metric.
        first: Values of student A.
        second: Values of student B, of the same queries.
        groups: Image of each value, from `group_places`, where an image has several values; None where each has one.
        draws: Seed and numbers of the random draws.

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
    """Compare means over classes of the mean within each; arguments as in `compare_means`, with a label per image."""
    weights = class_weights(labels)
    gain = second - first
    replicates = class_mean_replicates(gain, labels=labels, seed=draws.seed, num_resamples=draws.num_resamples)
    interval = percentile_interval(replicates, num_pictures=len(gain))
    p_value = sign_flip_p_value(gain * weights, seed=draws.seed, num_permutations=draws.num_permutations)
    return Difference(name, float(first @ weights), float(second @ weights), interval, p_value)


def compare_medians(
    name: str, *, first: Values, second: Values, groups: Places | None = None, draws: Draws
) -> Difference:
    """Compare medians of paired values; the p-value swaps the two students' values of an image."""
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


def compare_mean_recall(text_to_image: OutcomePair, image_to_text: OutcomePair, *, draws: Draws) -> Difference:
    """Compare the mean over recall@1, 5 and 10 of both directions, as `mean_interval` sums them up.

    An image is drawn, or its answers swapped, in both directions at once.

    Args:
        text_to_image: Outcomes of both students for captions that look for their image.
        image_to_text: Outcomes of both students for images that look for their captions, of the same images.
        draws: Seed and numbers of the random draws.
    """
    recalls = [
        pair
        for direction in (text_to_image, image_to_text)
        for pair in zip(*map(statistics, direction), strict=True)
        if pair[0].kind == "mean"
    ]
    gains, replicates = [], []
    for ours, theirs in recalls:
        gain = theirs.values - ours.values
        gains.append(np.bincount(ours.groups, weights=gain) / len(gain))
        replicates.append(mean_replicates(gain, groups=ours.groups, seed=draws.seed, num_resamples=draws.num_resamples))
    interval = percentile_interval(np.mean(replicates, axis=0), num_pictures=len(gains[0]))
    p_value = sign_flip_p_value(np.mean(gains, axis=0), seed=draws.seed, num_permutations=draws.num_permutations)
    first, second = (float(np.mean([each.estimate() for each in students])) for students in zip(*recalls, strict=True))
    return Difference(f"{text_to_image[0].set_name}/{MEAN_RECALL}", first, second, interval, p_value)


def _comparisons(pairs: Sequence[OutcomePair], draws: Draws) -> Iterator[tuple[str, Callable[[], Difference]]]:
    """Yield the name of each metric, and the function that compares it; the mean recall of a set before its parts."""
    by_name = {pair[0].name: pair for pair in pairs}
    for pair in pairs:
        first, second = pair
        text_to_image, image_to_text = (by_name.get(f"{first.set_name}/{task}") for task in DIRECTIONS)
        if pair is text_to_image and image_to_text is not None:
            yield f"{first.set_name}/{MEAN_RECALL}", partial(compare_mean_recall, pair, image_to_text, draws=draws)
        for ours, theirs in zip(statistics(first), statistics(second), strict=True):
            name = f"{first.name}/{ours.name}"
            yield name, partial(_compare, name, ours, theirs, draws)


def _compare(name: str, ours: Statistic, theirs: Statistic, draws: Draws) -> Difference:
    pair = {"first": ours.values, "second": theirs.values}
    if ours.kind == "median":
        return compare_medians(name, **pair, groups=ours.groups, draws=draws)
    if ours.kind == "class_mean":
        return compare_class_means(name, **pair, labels=ours.groups, draws=draws)
    return compare_means(name, **pair, groups=ours.groups, draws=draws)


def _align(first: QueryResults, second: QueryResults) -> tuple[QueryResults, QueryResults]:
    """Sort both by image and query, and check that they hold the same."""
    rows = [_keys(outcomes) for outcomes in (first, second)]
    alone = [sorted((Counter(own) - Counter(other)).elements()) for own, other in (rows, rows[::-1])]
    if any(alone):
        differing = " and ".join(
            f"{len(keys)} in the {which} alone, first {': '.join(filter(None, keys[0]))!r}"
            for which, keys in zip(("first", "second"), alone, strict=True)
            if keys
        )
        raise ProtoRKDError(
            f"Two evaluations must hold the same images and captions of {first.name} to be compared; got {differing}. "
            "Evaluate both students on one set."
        )
    if first.measures.keys() != second.measures.keys():
        raise ProtoRKDError(
            f"Two evaluations must have the same measures of {first.name} to be compared; got {sorted(first.measures)} "
            f"and {sorted(second.measures)}. Evaluate both students with the same options."
        )
    ordered = [
        _reordered(outcomes, sorted(range(len(own)), key=own.__getitem__))
        for outcomes, own in zip((first, second), rows, strict=True)
    ]
    _check_labels(*ordered)
    return ordered[0], ordered[1]


def _keys(outcomes: QueryResults) -> list[tuple[str, str]]:
    return list(zip(outcomes.images, outcomes.queries or [""] * len(outcomes.images), strict=True))


def _reordered(outcomes: QueryResults, order: list[int]) -> QueryResults:
    return replace(
        outcomes,
        images=[outcomes.images[row] for row in order],
        queries=[outcomes.queries[row] for row in order if len(outcomes.queries)],
        labels=[outcomes.labels[row] for row in order if len(outcomes.labels)],
        predicted=[outcomes.predicted[row] for row in order if len(outcomes.predicted)],
        measures={name: values[order] for name, values in outcomes.measures.items()},
    )


def _check_labels(first: QueryResults, second: QueryResults) -> None:
    for image, ours, theirs in zip(first.images, first.labels, second.labels, strict=False):
        if ours != theirs:
            raise ProtoRKDError(
                f"Two evaluations must give an image of {first.name} one label to be compared; got {ours} and "
                f"{theirs} for {image}. Evaluate both students on one set."
            )
