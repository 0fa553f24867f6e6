"""Draws by the sizes of clusters: as often as weights say, far apart, and the same wherever they are made."""

import itertools
from functools import partial

import numpy as np
import pytest
import torch

from stages.distill.data.balanced_order import balanced_episodes, balanced_weights, nearest_prototypes
from stages.distill.data.batch_order import BatchRequests
from stages.distill.data.targets import Targets

CLUSTERS = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 3])  # 2 is empty


@pytest.mark.parametrize(("alpha", "of_clusters"), [(0.0, [0.6, 0.3, 0.1]), (1.0, [1 / 3, 1 / 3, 1 / 3])])
def test_balanced_weights__are_powers_of_the_clusters_sizes(alpha: float, of_clusters: list[float]) -> None:
    weights = balanced_weights(CLUSTERS, alpha)
    assert [weights[cluster == CLUSTERS].sum() for cluster in (0, 1, 3)] == pytest.approx(of_clusters)
    root = balanced_weights(CLUSTERS, 0.5)
    assert root[9] / root[0] == pytest.approx(6**0.5)


def test_balanced_episodes__draw_each_example_as_often_as_its_weight_says() -> None:
    weights, size, epochs = balanced_weights(CLUSTERS, 1.0), 12, 400
    drawn = list(itertools.islice(balanced_episodes(weights, size, seed=3), epochs))
    counts = np.stack([np.bincount(episode, minlength=10) for episode in drawn])
    assert (counts.sum(axis=1) == size).all()
    expected = size * weights
    assert (np.floor(expected) <= counts).all()
    assert (counts <= np.floor(expected) + 1).all()
    np.testing.assert_allclose(counts.mean(axis=0), expected, atol=4 * 0.5 / epochs**0.5)


def test_balanced_episodes__keep_the_draws_of_an_example_apart() -> None:
    weights = np.full(1000, 0.75 / 999)
    weights[0] = 0.25
    places = np.flatnonzero(next(balanced_episodes(weights, 400, seed=0)) == 0)
    assert len(places) in (100, 101)
    assert (np.diff(places) > 1).mean() > 0.9


def test_balanced_episodes__of_equal_weights_show_every_example_once() -> None:
    for episode in itertools.islice(balanced_episodes(np.full(50, 1 / 50), 50, seed=0), 5):
        assert sorted(episode) == list(range(50))


def test_balanced_episodes__are_functions_of_seed_and_epoch() -> None:
    weights = balanced_weights(CLUSTERS, 1.0)
    first, again, other = (
        [episode.tolist() for episode in itertools.islice(balanced_episodes(weights, 12, seed=seed), 3)]
        for seed in (0, 0, 1)
    )
    assert first == again
    assert first != other
    assert first[0] != first[1]


@pytest.mark.parametrize("start_step", range(6))
@pytest.mark.parametrize("episode_size", [0, 8])
def test_requests__go_on_exactly_in_a_balanced_order(start_step: int, episode_size: int) -> None:
    order = partial(balanced_episodes, balanced_weights(CLUSTERS, 1.0), episode_size or 10, seed=0)
    requests = BatchRequests(
        np.arange(10), batch_size=4, epochs=3, seed=0, episode_size=episode_size, rank=1, num_ranks=2, order=order
    )
    assert list(requests.from_step(start_step)) == list(requests)[start_step:]


def test_nearest_prototypes__are_those_of_the_greatest_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("stages.distill.data.balanced_order._MOST_SCORES", 12)  # three captions at a time
    centroids = torch.nn.functional.normalize(torch.randn(4, 6, generator=torch.Generator().manual_seed(0)), dim=1)
    table = torch.cat([centroids[[2, 0, 1]] * 3, centroids[[3]] * 0.1 + 0.001])
    targets, rows = Targets(table, torch.device("cpu")), torch.tensor([3, 0, 0, 2, 1])
    assert nearest_prototypes(targets, rows, centroids).tolist() == [3, 2, 2, 1, 0]
