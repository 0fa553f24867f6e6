from itertools import chain

import numpy as np
import pytest

from data_schemas.prototypes import Prototypes
from stages.components.report.prototype_examples import NearestCaptions, choose_examples, cosine_sums


def some_prototypes() -> Prototypes:
    """Three, of which the last is empty, and a caption that belongs to none."""
    return Prototypes(
        centroids=np.eye(3, dtype=np.float32),
        assignment=np.array([1, 0, 1, -1, 1], np.int32),
        cosines=np.array([0.5, 0.9, 0.8, 0.0, 0.8], np.float32),
    )


def test_hearts__are_the_nearest_captions_the_earlier_first_among_equals() -> None:
    hearts = NearestCaptions(some_prototypes())
    assert hearts.rows(1, 2) == [2, 4]
    assert hearts.rows(1, 9) == [2, 4, 0]
    assert hearts.rows(0, 9) == [1]
    assert hearts.rows(2, 9) == []


def test_cosine_sums__leave_unassigned_captions_out() -> None:
    np.testing.assert_allclose(cosine_sums(some_prototypes()), [0.9, 2.1, 0.0], atol=1e-6)


def test_choose_examples__takes_the_extremes_and_an_even_spread_and_none_twice() -> None:
    sizes = np.array([0, *range(1, 41)])
    means = np.where(np.arange(41) % 2, 0.9, 0.2)
    chosen = choose_examples(sizes, means)
    assert chosen["largest"] == [40, 39, 38, 37, 36, 35]
    assert chosen["smallest"] == [1, 2, 3, 4, 5, 6]
    assert chosen["tightest"] == [21, 23, 25, 27, 29, 31]
    left = [number for number in range(34, 6, -1) if number not in chosen["tightest"]]
    assert chosen["spread"] == [left[place] for place in (1, 5, 9, 12, 16, 20)]


@pytest.mark.parametrize("num", [1, 5, 13])
def test_choose_examples__shows_all_where_there_are_few(num: int) -> None:
    chosen = choose_examples(np.arange(1, num + 1), np.ones(num))
    assert sorted(chain.from_iterable(chosen.values())) == list(range(num))


def test_choose_examples__takes_as_many_of_a_group_as_it_is_told() -> None:
    chosen = choose_examples(np.arange(1, 41), np.ones(40), num=2)
    assert chosen["largest"] == [39, 38]
    assert [len(numbers) for numbers in chosen.values()] == [2, 2, 2, 2]
