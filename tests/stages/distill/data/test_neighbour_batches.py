"""Batches of near captions: every example once, neighbours together, the nearest first."""

from functools import partial

import numpy as np
import pytest

from stages.distill.data.batch_order import BatchRequests, episodes
from stages.distill.data.neighbour_batches import gather_neighbours, neighbour_examples, with_neighbours

GROUPS = np.arange(60) // 4  # fours of examples that are near one another
NEIGHBOURS = np.stack([np.setdiff1d(np.flatnonzero(group == GROUPS), one) for one, group in enumerate(GROUPS)])


def test_neighbour_examples__are_the_first_examples_of_near_captions() -> None:
    neighbours = np.array([[1, 2], [2, 0], [3, -1], [0, 2]])
    assert neighbour_examples(np.array([2, 0, 2, 1]), neighbours).tolist() == [[-1, -1], [3, 0], [-1, -1], [0, 1]]


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("sizes", [[8], [5, 4], [7], [60], [100]])
def test_gather_neighbours__takes_every_example_once(share: float, sizes: list[int]) -> None:
    episode = np.random.default_rng(0).permutation(60)[:50]
    gathered = gather_neighbours(episode, NEIGHBOURS, sizes=sizes, share=share)
    assert sorted(gathered) == sorted(episode)
    if not share:
        assert gathered.tolist() == episode.tolist()


def test_gather_neighbours__puts_neighbours_into_the_same_batch() -> None:
    episode = np.random.default_rng(0).permutation(60)
    plain, gathered = (gather_neighbours(episode, NEIGHBOURS, sizes=[8], share=share)[:24] for share in (0.0, 0.5))
    pairs = [
        sum((GROUPS[batch][:, None] == GROUPS[batch]).sum() - len(batch) for batch in np.split(order, 3))
        for order in (plain, gathered)
    ]
    assert pairs[1] > 3 * pairs[0]


def test_gather_neighbours__takes_the_nearest_of_each_first() -> None:
    neighbours = np.full((9, 2), -1)
    neighbours[0], neighbours[1], neighbours[2] = [5, 6], [5, 7], [8, 3]
    gathered = gather_neighbours(np.arange(9), neighbours, sizes=[6, 3], share=0.5)
    assert gathered.tolist() == [0, 1, 2, 5, 8, 6, 3, 4, 7]


@pytest.mark.parametrize("start_step", range(8))
def test_requests__go_on_exactly_with_neighbours(start_step: int) -> None:
    order = partial(with_neighbours, partial(episodes, 60, 30, seed=0), NEIGHBOURS, sizes=[4, 4], share=0.5)
    requests = BatchRequests(np.arange(60), batch_size=8, epochs=2, seed=0, episode_size=30, accumulate=2, order=order)
    assert list(requests.from_step(start_step)) == list(requests)[2 * start_step :]
    seen = [example for epoch, examples in requests.parts() if epoch == 0 for example in examples]
    assert len(set(seen)) == len(seen) == 30
