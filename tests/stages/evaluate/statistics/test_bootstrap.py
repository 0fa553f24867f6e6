import time
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stages.evaluate.statistics.bootstrap import (
    Interval,
    bootstrap_class_mean,
    bootstrap_mean,
    bootstrap_measures,
    bootstrap_median,
    class_mean_replicates,
    class_weights,
    mean_replicates,
    median_replicates,
)


def some_hits(num: int, chance: float, *, seed: int = 0) -> NDArray[np.float64]:
    return (np.random.default_rng(seed).random(num) < chance).astype(np.float64)


def some_captions(num_pictures: int, *, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Hits of one to five captions an image, which all hit more often on some images than on others."""
    generator = np.random.default_rng(seed)
    groups = np.repeat(np.arange(num_pictures), generator.integers(1, 6, num_pictures))
    ease = generator.beta(0.3, 0.3, num_pictures)
    return (generator.random(len(groups)) < ease[groups]).astype(np.float64), groups


def draws_of(num_pictures: int, *, seed: int, num_resamples: int) -> NDArray[np.int64]:
    """Return the images of each resample, drawn as the bootstrap draws them."""
    return np.random.default_rng(seed).integers(num_pictures, size=(num_resamples, num_pictures))


def test_bootstrap_mean__is_near_scipys() -> None:
    from scipy.stats import bootstrap

    values = np.random.default_rng(0).gamma(2.0, size=300)
    expected = bootstrap((values,), np.mean, n_resamples=3000, method="percentile", rng=1).confidence_interval
    found = bootstrap_mean(values, seed=0, num_resamples=3000)
    assert found[:2] == pytest.approx((expected.low, expected.high), abs=0.1 * (expected.high - expected.low))


def test_bootstrap_median__is_near_scipys() -> None:
    from scipy.stats import bootstrap

    values = np.random.default_rng(0).gamma(2.0, size=301)
    expected = bootstrap((values,), np.median, n_resamples=2000, method="percentile", rng=1).confidence_interval
    found = bootstrap_median(values, seed=0, num_resamples=2000)
    assert found[:2] == pytest.approx((expected.low, expected.high), abs=0.15 * (expected.high - expected.low))


@pytest.mark.parametrize("chance", [0.1, 0.5, 0.9])
def test_bootstrap_mean__is_near_the_binomial_interval(chance: float) -> None:
    from scipy.stats import binomtest

    hits = some_hits(2000, chance)
    expected = binomtest(int(hits.sum()), len(hits)).proportion_ci(method="wilson")
    found = bootstrap_mean(100 * hits, seed=0, num_resamples=4000)
    assert found[:2] == pytest.approx((100 * expected.low, 100 * expected.high), abs=0.2)
    assert found.num_pictures == 2000


@pytest.mark.parametrize("grouped", [False, True])
def test_replicates__are_those_of_a_loop_over_resamples(grouped: bool) -> None:
    values, groups = some_captions(30)
    values = values + np.random.default_rng(1).integers(10, size=len(values))
    if not grouped:
        groups = np.arange(len(values))
    options: dict[str, Any] = {"groups": groups if grouped else None, "seed": 3, "num_resamples": 20}
    draws = draws_of(groups.max() + 1, seed=3, num_resamples=20)
    resamples = [np.concatenate([values[groups == image] for image in drawn]) for drawn in draws]
    assert mean_replicates(values, **options) == pytest.approx([resample.mean() for resample in resamples])
    assert median_replicates(values, **options) == pytest.approx([np.median(resample) for resample in resamples])


def test_class_mean_replicates__are_those_of_a_loop_over_resamples() -> None:
    values = np.random.default_rng(0).random(24)
    labels = np.array(["cat", "dog", "rare"]).repeat([12, 11, 1])
    expected = []
    for drawn in draws_of(24, seed=5, num_resamples=20):
        present = [values[drawn[labels[drawn] == name]] for name in np.unique(labels[drawn])]
        expected.append(np.mean([resample.mean() for resample in present]))
    found = class_mean_replicates(values, labels=labels, seed=5, num_resamples=20)
    assert found == pytest.approx(expected)


def test_class_mean_replicates__do_not_depend_on_the_order_of_classes() -> None:
    values, labels = np.arange(6.0), np.array([0, 0, 1, 1, 2, 2])
    expected = class_mean_replicates(values, labels=labels, seed=0, num_resamples=10)
    order = [4, 2, 0, 5, 3, 1]
    found = class_mean_replicates(values[order], labels=labels[order], seed=0, num_resamples=10)
    assert found == pytest.approx(expected)


def test_bootstrap__takes_names_for_groups_and_labels() -> None:
    values, groups = some_captions(20)
    names = np.array([f"{group:03}.jpg" for group in groups])
    assert bootstrap_mean(values, groups=names, seed=0) == bootstrap_mean(values, groups=groups, seed=0)
    assert bootstrap_class_mean(values, labels=names, seed=0) == bootstrap_class_mean(values, labels=groups, seed=0)


def test_bootstrap__is_settled_by_the_seed() -> None:
    hits = some_hits(500, 0.4)
    assert bootstrap_mean(hits, seed=1) == bootstrap_mean(hits, seed=1) != bootstrap_mean(hits, seed=2)


def test_bootstrap__does_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    values, groups = some_captions(50)
    expected = [bootstrap_mean(values, groups=groups, seed=0), bootstrap_median(values, seed=0)]
    monkeypatch.setattr("stages.evaluate.statistics.bootstrap._MAX_DRAWS", 1)
    assert [bootstrap_mean(values, groups=groups, seed=0), bootstrap_median(values, seed=0)] == expected


def test_bootstrap_mean__covers_the_truth_in_19_of_20_sets() -> None:
    found = [bootstrap_mean(some_hits(300, 0.3, seed=seed), seed=seed, num_resamples=300) for seed in range(300)]
    assert 0.92 <= np.mean([low <= 0.3 <= high for low, high, _ in found]) <= 0.98


def test_bootstrap_mean__covers_the_truth_only_if_captions_are_drawn_with_their_image() -> None:
    with_groups, without = [], []
    for seed in range(300):
        hits, groups = some_captions(150, seed=seed)
        low, high, _ = bootstrap_mean(hits, groups=groups, seed=seed, num_resamples=300)
        with_groups.append(low <= 0.5 <= high)
        low, high, _ = bootstrap_mean(hits, seed=seed, num_resamples=300)
        without.append(low <= 0.5 <= high)
    assert 0.92 <= np.mean(with_groups) <= 0.98
    assert np.mean(without) < 0.85


def test_bootstrap__gives_a_point_where_all_values_are_equal() -> None:
    assert bootstrap_mean(np.full(10, 100.0), seed=0) == Interval(100.0, 100.0, 10)


def test_bootstrap__takes_a_second_or_two_for_50000_images() -> None:
    hits, labels = some_hits(50_000, 0.5), np.arange(50_000) % 1000
    start = time.process_time()
    bootstrap_mean(hits, seed=0, num_resamples=100)
    bootstrap_class_mean(hits, labels=labels, seed=0, num_resamples=100)
    bootstrap_median(np.arange(50_000.0), seed=0, num_resamples=100)
    assert time.process_time() - start < 5  # all three, with a tenth of the resamples: some 0.5 s on a quiet core


@pytest.mark.parametrize("values", [[], [1.0, np.nan], [[1.0], [2.0]]])
def test_bootstrap__refuses_values_that_are_none(values: list[Any]) -> None:
    with pytest.raises(ValueError, match="values must be finite, in one row and not empty"):
        bootstrap_mean(values, seed=0)


def test_bootstrap__refuses_groups_of_another_length() -> None:
    with pytest.raises(ValueError, match=r"Groups must have shape \(2,\), as the values; got \(3,\)"):
        bootstrap_median([1.0, 2.0], groups=[0, 1, 1], seed=0)


def test_bootstrap_measures__are_those_of_the_mean_for_a_mean() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=80)
    intervals = bootstrap_measures(
        lambda rows: {"mean": values[rows].mean(), "size": len(rows)}, num_pictures=80, seed=3, num_resamples=200
    )
    assert intervals["mean"] == pytest.approx(bootstrap_mean(values, seed=3, num_resamples=200))
    assert intervals["size"] == Interval(80.0, 80.0, 80)


def test_class_weights__make_the_mean_of_class_means() -> None:
    values, labels = np.array([1.0, 0.0, 0.0, 0.0, 1.0]), np.array([0, 0, 0, 0, 2])
    assert class_weights(labels).sum() == pytest.approx(1)
    assert values @ class_weights(labels) == pytest.approx((1 / 4 + 1) / 2)
