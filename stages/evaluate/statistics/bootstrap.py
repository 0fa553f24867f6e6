"""Compute 95 % bootstrap intervals of metrics over the images of a set.

A resample draws as many images as the set has, with replacement; whatever belongs to an image is drawn with it. The
interval reaches from the 2.5th to the 97.5th percentile of the metric over the resamples. It says how the metric would
vary over sets like this one, and nothing about other seeds of training. Where all values are equal it is a point: the
bootstrap cannot know values that it never saw.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Values = NDArray[np.float64]
Places = NDArray[np.int64]

NUM_RESAMPLES = 1000
_PERCENTILES = (2.5, 97.5)
_MAX_DRAWS = 2**20  # images drawn at once, over all resamples of a block: about 8 MiB in each step


class Interval(NamedTuple):
    """A 95 % interval, in the unit of the values.

    Args:
        low: Lower end of the interval.
        high: Upper end of the interval.
        num_pictures: Number of images in the set that was resampled.
    """

    low: float
    high: float
    num_pictures: int


def bootstrap_mean(
    values: ArrayLike, *, groups: ArrayLike | None = None, seed: int, num_resamples: int = NUM_RESAMPLES
) -> Interval:
    """Find the interval of a mean, such as accuracy or recall@k.

    Args:
        values: One value per query, in the unit of the metric.
        groups: Image that each value belongs to, by number or by name: the captions of an image are drawn together,
            and the mean is the ratio of their sum to their number. None where every value is an image of its own.
        seed: Seed of the resamples.
        num_resamples: Number of sets that are drawn.

    Raises:
        ValueError: there is no value, one is not finite, or there are not as many groups.

    Shapes:
        values: (values,), float; groups: (values,).

    Example:
        >>> bootstrap_mean([100.0, 0.0] * 50, seed=0)
        Interval(low=40.0, high=60.0, num_pictures=100)
    """
    replicates = mean_replicates(values, groups=groups, seed=seed, num_resamples=num_resamples)
    return percentile_interval(replicates, num_pictures=_num_groups(values, groups))


def bootstrap_median(
    values: ArrayLike, *, groups: ArrayLike | None = None, seed: int, num_resamples: int = NUM_RESAMPLES
) -> Interval:
    """Find the interval of a median, such as the median rank; arguments as in `bootstrap_mean`."""
    replicates = median_replicates(values, groups=groups, seed=seed, num_resamples=num_resamples)
    return percentile_interval(replicates, num_pictures=_num_groups(values, groups))


def bootstrap_class_mean(
    values: ArrayLike, *, labels: ArrayLike, seed: int, num_resamples: int = NUM_RESAMPLES
) -> Interval:
    """Find the interval of the mean over classes of the mean within each, such as mean-per-class accuracy.

    Images are drawn from the whole set; a class without an image in a resample is left out of that resample's mean.

    Args:
        values: One value per image, in the unit of the metric.
        labels: Class of each image, by number or by name.
        seed: Seed of the resamples.
        num_resamples: Number of sets that are drawn.

    Raises:
        ValueError: there is no value, one is not finite, or there are not as many labels.

    Shapes:
        values: (images,), float; labels: (images,).
    """
    replicates = class_mean_replicates(values, labels=labels, seed=seed, num_resamples=num_resamples)
    return percentile_interval(replicates, num_pictures=_num_groups(values, None))


def percentile_interval(replicates: Values, *, num_pictures: int) -> Interval:
    """Find the interval of resampled metrics by cutting off 2.5 % at either end."""
    low, high = np.percentile(replicates, _PERCENTILES)
    return Interval(low=float(low), high=float(high), num_pictures=num_pictures)


def bootstrap_measures(
    measure: Callable[[Places], Mapping[str, float]],
    *,
    num_pictures: int,
    seed: int,
    num_resamples: int = NUM_RESAMPLES,
) -> dict[str, Interval]:
    """Find the intervals of measures that are no mean, such as a correlation, by measuring every resample.

    Args:
        measure: Takes the rows of a resample, (num_pictures,), int64, and gives the same measures every time.
        num_pictures: Number of images in the set; each is drawn on its own.
        seed: Seed of the resamples.
        num_resamples: Number of sets that are drawn.
    """
    rows = np.arange(num_pictures)
    resamples = _resamples(num_pictures, seed=seed, num_resamples=num_resamples)
    replicates = [measure(np.repeat(rows, counts)) for block in resamples for counts in block]
    return {
        name: percentile_interval(np.array([each[name] for each in replicates]), num_pictures=num_pictures)
        for name in replicates[0]
    }


def mean_replicates(values: ArrayLike, *, groups: ArrayLike | None, seed: int, num_resamples: int) -> Values:
    """Compute the mean of every resample; one seed draws the same images, whatever their values.

    Shapes:
        returns: (num_resamples,), float64.
    """
    numbers, places = _grouped(values, groups)
    sums, sizes = np.bincount(places, weights=numbers), np.bincount(places)
    blocks = _resamples(len(sizes), seed=seed, num_resamples=num_resamples)
    return np.concatenate([(counts @ sums) / (counts @ sizes) for counts in blocks])


def median_replicates(values: ArrayLike, *, groups: ArrayLike | None, seed: int, num_resamples: int) -> Values:
    """Compute the median of every resample; one seed draws the same images, whatever their values.

    Shapes:
        returns: (num_resamples,), float64.
    """
    numbers, places = _grouped(values, groups)
    order = np.argsort(numbers, kind="stable")
    numbers, places = numbers[order], places[order]
    medians = []
    for counts in _resamples(int(places.max()) + 1, seed=seed, num_resamples=num_resamples):
        for drawn in np.cumsum(counts[:, places], axis=1):  # values up to each one, one row per resample
            middle = ((drawn[-1] - 1) // 2, drawn[-1] // 2)
            medians.append(numbers[np.searchsorted(drawn, middle, side="right")].mean())
    return np.array(medians)


def class_mean_replicates(values: ArrayLike, *, labels: ArrayLike, seed: int, num_resamples: int) -> Values:
    """Compute the mean over classes of every resample; one seed draws the same images for the same labels.

    Shapes:
        returns: (num_resamples,), float64.
    """
    numbers, classes = _grouped(values, labels)
    order = np.argsort(classes, kind="stable")
    numbers = numbers[order]
    starts = np.searchsorted(classes[order], np.arange(classes.max() + 1))
    means = []
    for counts in _resamples(len(numbers), seed=seed, num_resamples=num_resamples):
        sums = np.add.reduceat(counts * numbers, starts, axis=1)
        sizes = np.add.reduceat(counts, starts, axis=1)
        accuracies = np.divide(sums, sizes, out=np.zeros_like(sums), where=sizes > 0)  # (block, classes)
        means.append(accuracies.sum(axis=1) / (sizes > 0).sum(axis=1))
    return np.concatenate(means)


def class_weights(labels: Places) -> Values:
    """Weigh images so that the weighted sum of their values is the mean over classes of the mean within each.

    Shapes:
        labels: (images,), int64, from 0.
        returns: (images,), float64, summing to 1.
    """
    sizes = np.bincount(labels)
    weights: Values = 1 / (sizes[labels] * np.count_nonzero(sizes))
    return weights


def group_places(groups: ArrayLike) -> Places:
    """Number the groups from 0, in sorted order.

    Shapes:
        groups: (values,).
        returns: (values,), int64, the number of each value's group.
    """
    places: Places = np.unique(np.asarray(groups), return_inverse=True)[1]
    return places


def _resamples(num_pictures: int, *, seed: int, num_resamples: int) -> Iterator[Places]:
    """Yield how often each resample draws each image: (block, images), int64."""
    generator = np.random.default_rng(seed)
    block = max(1, _MAX_DRAWS // num_pictures)
    for start in range(0, num_resamples, block):
        rows = min(block, num_resamples - start)
        draws = generator.integers(num_pictures, size=(rows, num_pictures))
        draws += num_pictures * np.arange(rows)[:, None]
        yield np.bincount(draws.ravel(), minlength=draws.size).reshape(draws.shape)


def _grouped(values: ArrayLike, groups: ArrayLike | None) -> tuple[Values, Places]:
    numbers: NDArray[Any] = np.asarray(values, dtype=np.float64)
    if numbers.ndim != 1 or len(numbers) == 0 or not np.isfinite(numbers).all():
        raise ValueError(f"values must be finite, in one row and not empty; got shape {numbers.shape}.")
    if groups is None:
        return numbers, np.arange(len(numbers))
    places = group_places(groups)
    if places.shape != numbers.shape:
        raise ValueError(f"Groups must have shape {numbers.shape}, as the values; got {places.shape}.")
    return numbers, places


def _num_groups(values: ArrayLike, groups: ArrayLike | None) -> int:
    return int(_grouped(values, groups)[1].max()) + 1
