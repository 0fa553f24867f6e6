from typing import Any

import numpy as np
import pytest

from stages.evaluate.statistics.bootstrap import Interval
from stages.evaluate.statistics.jackknife import jackknife_interval, jackknife_intervals, random_groups


def intervals_of_mean(values: np.ndarray, **options: Any) -> Interval:
    asked = {"estimates": {"mean": float(values.mean())}, "num_pictures": len(values), "seed": 0} | options
    return jackknife_intervals(lambda rows: {"mean": float(values[rows].mean())}, **asked)["mean"]


def test_random_groups__are_of_one_size_and_settled_by_the_seed() -> None:
    groups = random_groups(47, seed=0)
    assert sorted(np.bincount(groups)) == [2] * 13 + [3] * 7
    assert groups.tolist() == random_groups(47, seed=0).tolist() != random_groups(47, seed=1).tolist()
    assert sorted(random_groups(3, seed=0)) == [0, 1, 2]


def test_jackknife_interval__is_that_of_the_textbook_for_a_mean_without_each_image() -> None:
    values = np.random.default_rng(0).gamma(2.0, size=60)
    found = intervals_of_mean(values, num_groups=60)
    reach = 1.96 * values.std(ddof=1) / 60**0.5
    assert found == pytest.approx((values.mean() - reach, values.mean() + reach, 60))


def test_jackknife_error__of_20_groups_is_right_on_average() -> None:
    generator = np.random.default_rng(0)
    ratios = []
    for seed in range(200):
        values = generator.normal(size=100)
        low, high, _ = intervals_of_mean(values, seed=seed)
        ratios.append(((high - low) / 2 / 1.96) ** 2 / (values.var(ddof=1) / 100))
    assert np.mean(ratios) == pytest.approx(1, abs=0.08)
    assert np.std(ratios) == pytest.approx((2 / 19) ** 0.5, rel=0.2)  # that of a variance from 20 values


@pytest.mark.parametrize("limit", [None, 100])
def test_jackknife_intervals__cover_the_truth_in_some_94_of_100_sets(limit: int | None) -> None:
    generator = np.random.default_rng(0)
    covered = []
    for seed in range(400):
        low, high, _ = intervals_of_mean(generator.gamma(2.0, size=200), seed=seed, limit=limit)
        covered.append(low <= 2 <= high)
    assert 0.90 <= np.mean(covered) <= 0.97


def test_jackknife_intervals__cover_a_correlation() -> None:
    generator = np.random.default_rng(0)
    covered = []
    for seed in range(300):
        pair = generator.multivariate_normal([0, 0], [[1, 0.6], [0.6, 1]], size=200)

        def measure(rows: np.ndarray, pair: np.ndarray = pair) -> dict[str, float]:
            return {"r": float(np.corrcoef(pair[rows].T)[0, 1])}

        found = jackknife_intervals(measure, estimates=measure(np.arange(200)), num_pictures=200, seed=seed)["r"]
        covered.append(found.low <= 0.6 <= found.high)
    assert 0.90 <= np.mean(covered) <= 0.97


def test_jackknife_intervals__shrink_a_samples_error_to_the_images_that_an_estimate_rests_on() -> None:
    values = np.random.default_rng(0).normal(size=4000)
    widths = {
        rests_on: np.ptp(intervals_of_mean(values, limit=400, rests_on={"mean": rests_on})[:2])
        for rests_on in (400, 1600, 10_000)
    }
    assert widths[400] / widths[1600] == pytest.approx(2)
    assert widths[400] / widths[10_000] == pytest.approx(10**0.5)
    whole = np.ptp(intervals_of_mean(values)[:2])
    assert widths[10_000] == pytest.approx(whole, rel=0.5)


def test_jackknife_intervals__leave_out_each_image_once() -> None:
    kept: list[list[int]] = []

    def measure(rows: np.ndarray) -> dict[str, float]:
        kept.append(rows.tolist())
        return {}

    assert jackknife_intervals(measure, estimates={}, num_pictures=50, seed=0) == {}
    assert len(kept) == 20
    assert all(rows == sorted(rows) for rows in kept)
    assert sorted(row for rows in kept for row in set(range(50)) - set(rows)) == list(range(50))


def test_jackknife_intervals__are_given_for_what_every_group_left_out_allows() -> None:
    def measure(rows: np.ndarray) -> dict[str, float]:
        return {"all": 1.0} | ({"some": 2.0} if 0 in rows else {})

    found = jackknife_intervals(measure, estimates={"some": 2.0, "all": 1.0}, num_pictures=30, seed=0)
    assert found == {"all": Interval(1.0, 1.0, 30)}


@pytest.mark.parametrize("num_pictures", [1, 2])
def test_jackknife_intervals__need_two_images(num_pictures: int) -> None:
    found = jackknife_intervals(
        lambda rows: {"sum": float(rows.sum())}, estimates={"sum": 1.0}, num_pictures=num_pictures, seed=0
    )
    assert bool(found) == (num_pictures == 2)


def test_jackknife_interval__lies_around_the_estimate() -> None:
    found = jackknife_interval(np.array([1.0, 3.0]), estimate=7.0, num_pictures=9, shrink=0.5)
    assert found == pytest.approx((7 - 1.96 * 0.5, 7 + 1.96 * 0.5, 9))
