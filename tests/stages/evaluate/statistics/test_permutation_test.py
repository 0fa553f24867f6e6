import itertools

import numpy as np
import pytest

from stages.evaluate.statistics.permutation_test import holm, sign_flip_p_value, swap_p_value


@pytest.mark.parametrize(("better", "worse"), [(0, 1), (3, 1), (8, 0), (30, 12), (400, 320), (5, 5)])
def test_sign_flip_p_value__is_mcnemars_for_right_and_wrong(better: int, worse: int) -> None:
    from scipy.stats import binomtest

    gains = np.repeat([1.0, -1.0, 0.0], [better, worse, 50])
    expected = binomtest(better, better + worse).pvalue
    assert sign_flip_p_value(gains, seed=0) == pytest.approx(expected, rel=1e-9)
    assert sign_flip_p_value(100 * gains, seed=0) == pytest.approx(expected, rel=1e-9)


def test_sign_flip_p_value__holds_for_very_many_images() -> None:
    assert sign_flip_p_value(np.repeat([1.0, -1.0], [26_000, 24_000]), seed=0) == pytest.approx(3.9e-19, rel=0.1)


def test_sign_flip_p_value__is_near_that_of_all_sign_flips() -> None:
    gains = np.array([0.5, 1.0, -0.25, 2.0, 0.75, -0.5, 1.5, 0.3, 0.0, 1.1])
    flips = np.array(list(itertools.product([-1, 1], repeat=len(gains))))
    expected = np.mean(np.abs(flips @ gains) >= gains.sum() - 1e-9)
    assert sign_flip_p_value(gains, seed=0, num_permutations=20_000) == pytest.approx(expected, rel=0.15)


def test_sign_flip_p_value__is_one_where_nothing_differs() -> None:
    assert sign_flip_p_value(np.zeros(5), seed=0) == 1


def test_swap_p_value__is_near_that_of_all_swaps() -> None:
    generator = np.random.default_rng(0)
    groups = np.repeat(np.arange(9), 2)
    first, second = generator.integers(1, 30, size=(2, 18)).astype(np.float64)
    second += 4
    observed = abs(np.median(second) - np.median(first))
    larger = [
        abs(np.median(np.where(swap, first, second)) - np.median(np.where(swap, second, first))) >= observed
        for heads in itertools.product([False, True], repeat=9)
        for swap in [np.array(heads)[groups]]
    ]
    found = swap_p_value(first=first, second=second, groups=groups, seed=0, num_permutations=20_000)
    assert found == pytest.approx(np.mean(larger), rel=0.1)


def test_swap_p_value__is_one_where_nothing_differs() -> None:
    ranks = np.arange(5.0)
    assert swap_p_value(first=ranks, second=ranks, groups=np.arange(5), seed=0, num_permutations=50) == 1


def test_holm__is_as_in_the_paper() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])  # 0.04 follows 2 * 0.03
    assert holm([0.5, 0.9]) == [1.0, 1.0]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_holm__finds_a_difference_in_one_of_twenty_families_that_have_none() -> None:
    families = np.random.default_rng(0).random((2000, 15))
    assert np.mean([min(holm(list(family))) <= 0.05 for family in families]) == pytest.approx(0.05, abs=0.015)
